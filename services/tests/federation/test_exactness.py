"""FedAvg and FedProx through real data ports against a plain single-process program in torch.

The reference shares no code with the product: neither model, loss, batches, penalty nor average.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_rounds import federate
from torch import Tensor, nn
from worker_double import Worker

from synergos.federation.sessions import Split

Start = Callable[..., list[Worker]]
ROUNDS, EPOCHS, BATCH, LR, MOMENTUM, MU, SEED, CLASSES = 3, 2, 16, 0.1, 0.9, 0.5, 42, 3
SIZES = {2: (37, 90), 3: (23, 50, 71), 8: (5, 16, 17, 29, 33, 48, 61, 90)}


def table(rows: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, CLASSES, size=rows)
    return (generator.normal(size=(rows, 6)) + np.eye(CLASSES, 6)[y]).astype(np.float32), y


def image(rows: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, CLASSES, size=rows)
    X = generator.integers(0, 120, size=(rows, 2, 9, 8), dtype=np.uint8)
    X[np.arange(rows), 0, 2 * y] += 120
    return X, y


def layer(l_type: str, activation: str | None = None, **structure: Any) -> dict[str, Any]:
    return {"is_input": False, "l_type": l_type, "structure": structure, "activation": activation}


# What the product is told, the same model in plain torch, and rows for it.
MODELS: dict[str, tuple[list[dict[str, Any]], Callable[[], nn.Module], Callable[..., Any]]] = {
    "tabular": (
        [
            layer("Linear", "tanh", in_features=6, out_features=8),
            layer("Linear", "softmax", in_features=8, out_features=CLASSES),
        ],
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)),
        table,
    ),
    "convolutional": (
        [
            layer("Conv2d", "relu", in_channels=2, out_channels=4, kernel_size=3, padding=1),
            layer("MaxPool2d", kernel_size=2),
            layer("Conv2d", "relu", in_channels=4, out_channels=3, kernel_size=3),
            layer("Flatten"),
            layer("Linear", "softmax", in_features=12, out_features=CLASSES),
        ],
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 3, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ),
        image,
    ),
}


def batches(rows: int, participant: int, server_round: int) -> list[list[Tensor]]:
    """Return the row numbers of each batch of each epoch, as docs/models.md states them."""
    words = np.random.SeedSequence([SEED, participant, server_round]).generate_state(2, np.uint32)
    shuffle = torch.Generator().manual_seed(int(words[0]) * 2**31 + int(words[1]) // 2)
    return [list(torch.randperm(rows, generator=shuffle).split(BATCH)) for _ in range(EPOCHS)]


def reference(model: nn.Module, parts: list[tuple[Tensor, Tensor]], mu: float) -> list[Tensor]:
    total = sum(len(X) for X, _ in parts)
    for server_round in range(1, ROUNDS + 1):
        average = [torch.zeros_like(weight) for weight in model.parameters()]
        for participant, (X, y) in enumerate(parts, start=1):
            local = copy.deepcopy(model)
            optimizer = torch.optim.SGD(local.parameters(), lr=LR, momentum=MOMENTUM)
            for epoch in batches(len(X), participant, server_round):
                for rows in epoch:
                    loss = nn.functional.cross_entropy(local(X[rows]), y[rows])
                    for weight, start in zip(local.parameters(), model.parameters(), strict=True):
                        loss = loss + mu / 2 * (weight - start.detach()).square().sum()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            for mean, weight in zip(average, local.parameters(), strict=True):
                mean += len(X) / total * weight.detach()
        for weight, mean in zip(model.parameters(), average, strict=True):
            weight.data.copy_(mean)
    return [weight.detach() for weight in model.parameters()]


@pytest.mark.parametrize("participants", SIZES)
@pytest.mark.parametrize("algorithm", ["FedAvg", "FedProx"])
@pytest.mark.parametrize("name", MODELS)
def test_three_rounds_are_the_plain_algorithm(workers: Start, name: str, algorithm: str, participants: int) -> None:
    told, build, rows = MODELS[name]
    parts = [rows(size, seed=size) for size in SIZES[participants]]
    started = workers({f"worker_{i}": {"train": Split(X, y)} for i, (X, y) in enumerate(parts, start=1)})
    values = {
        "algorithm": algorithm, "rounds": ROUNDS, "epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "mu": MU,
        "momentum": MOMENTUM, "criterion": "NLLLoss", "lr_scheduler": "LambdaLR", "lr_decay": 0, "seed": SEED,
    }  # fmt: skip

    weights = federate(started, told, values).weights

    torch.manual_seed(SEED)
    model = build()
    start = [weight.detach().clone() for weight in model.parameters()]
    numbers = [
        (torch.from_numpy(X).float() / (255 if X.dtype == np.uint8 else 1), torch.from_numpy(y)) for X, y in parts
    ]
    expected = reference(model, numbers, MU if algorithm == "FedProx" else 0.0)
    assert len(weights) == len(expected)
    for array, weight, before in zip(weights.values(), expected, start, strict=True):
        np.testing.assert_allclose(array.numpy(), weight.numpy(), rtol=0, atol=1e-5)
        assert (weight - before).abs().max() > 0.01
