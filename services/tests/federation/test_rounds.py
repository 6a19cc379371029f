"""Federated rounds through real data ports, against the same arithmetic in plain torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worker_double import Worker, linear, separable

from synergos.federation import strategy, training, warm_up
from synergos.federation.aggregation import Aggregation
from synergos.federation.checkpoint import Snapshot
from synergos.federation.grid import DirectGrid, Endpoint
from synergos.federation.layers import Network
from synergos.federation.parameters import Parameters

Start = Callable[..., list[Worker]]
CONSTANT = {"lr_scheduler": "LambdaLR", "lr_decay": 0}


def federate(
    started: list[Worker], model: list[dict[str, Any]], values: dict[str, Any], action: str = "classify"
) -> strategy.Outcome:
    for worker in started:
        worker.open(f"token of {worker.participant_id}", action)  # type: ignore[arg-type]
    grid = DirectGrid(Endpoint(w.participant_id, w.port.url, f"token of {w.participant_id}") for w in started)
    parameters = Parameters.read(values)
    network = initial(model, parameters.seed)
    snapshot = Snapshot(training.to_record(network))
    trained = frozenset(name for name, _ in network.named_parameters())
    aggregation = Aggregation(parameters, len(started), len(started), trained, snapshot.weights)
    settings = {"architecture": json.dumps(model), "parameters": json.dumps(values)}
    try:
        return strategy.run(grid, snapshot, aggregation, parameters, settings, 60, lambda *_: None)
    finally:
        grid.close()


def initial(model: list[dict[str, Any]], seed: int = 42) -> Network:
    torch.manual_seed(seed)
    return Network(model)


def flat(weights: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([array.numpy().ravel() for array in weights.values()])


def plain(network: nn.Module) -> np.ndarray[Any, Any]:
    return np.concatenate([value.detach().numpy().ravel() for value in network.state_dict().values()])


def test_one_full_batch_step_of_fedavg_is_the_step_on_all_rows(workers: Start) -> None:
    parts = [separable(40, 5, 2, seed=1), separable(90, 5, 2, seed=2)]
    started = workers({"worker_1": {"train": parts[0]}, "worker_2": {"train": parts[1]}})
    model = linear(5, 1, "sigmoid")
    values = {"algorithm": "FedAvg", "rounds": 1, "epochs": 1, "lr": 0.5, "criterion": "BCELoss", **CONSTANT}

    outcome = federate(started, model, values)

    reference = initial(model)
    X = torch.from_numpy(np.concatenate([part.X for part in parts]))
    y = torch.from_numpy(np.concatenate([part.y for part in parts]))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5)
    F.binary_cross_entropy(reference(X), y).backward()
    optimizer.step()
    np.testing.assert_allclose(flat(outcome.weights), plain(reference), atol=1e-6)


@pytest.mark.parametrize("sizes", [(37, 64), (23, 50, 71)])
def test_fedprox_with_mini_batches_is_the_plain_algorithm(workers: Start, sizes: tuple[int, ...]) -> None:
    parts = [separable(rows, 6, 3, seed=rows) for rows in sizes]
    started = workers({f"worker_{i}": {"train": part, "evaluate": part} for i, part in enumerate(parts, start=1)})
    model = [*linear(6, 8, "tanh"), *linear(8, 3, "softmax")]
    values = {
        "rounds": 3, "epochs": 2, "batch_size": 16, "lr": 0.1, "mu": 0.5, "criterion": "NLLLoss",
        "l1_lambda": 0.001, "l2_lambda": 0.01, "momentum": 0.9, **CONSTANT,
    }  # fmt: skip

    outcome = federate(started, model, values)

    reference = initial(model)
    evaluate, train = [], []
    for server_round in range(1, 4):
        local, losses = [], []
        for position, part in enumerate(parts, start=1):
            network = copy.deepcopy(reference)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            shuffle = torch.Generator().manual_seed(training.Turn(position, server_round).seed(42))
            X, y = torch.from_numpy(part.X), torch.from_numpy(part.y)
            for _ in range(2):
                losses.append(0.0)
                for rows in torch.randperm(len(X), generator=shuffle).split(16):
                    loss = F.nll_loss(network(X[rows]).log(), y[rows])
                    losses[-1] += loss.item() * len(rows) / len(X)
                    penalty = sum(
                        0.25 * (w - old.detach()).square().sum() + 0.001 * w.abs().sum() + 0.005 * w.square().sum()
                        for w, old in zip(network.parameters(), reference.parameters(), strict=True)
                    )
                    optimizer.zero_grad()
                    (loss + penalty).backward()
                    optimizer.step()
            local.append(network.state_dict())
        shares = [len(part.X) / sum(sizes) for part in parts]
        train.append(sum(share * loss for share, loss in zip(shares, losses[1::2], strict=True)))
        reference.load_state_dict(
            {name: sum(share * state[name] for share, state in zip(shares, local, strict=True)) for name in local[0]}
        )
        with torch.no_grad():
            evaluate.append(
                sum(
                    share * F.nll_loss(reference(torch.from_numpy(part.X)).log(), torch.from_numpy(part.y)).item()
                    for share, part in zip(shares, parts, strict=True)
                )
            )
    np.testing.assert_allclose(flat(outcome.weights), plain(reference), atol=1e-5)
    np.testing.assert_allclose(list(outcome.history.train.values()), train, atol=1e-5)
    np.testing.assert_allclose(list(outcome.history.evaluate.values()), evaluate, atol=1e-5)


def test_the_same_seed_gives_the_same_bits(workers: Start) -> None:
    started = workers({f"worker_{i}": {"train": separable(30 + i, 4, 2, seed=i)} for i in range(1, 4)})
    model = [
        *linear(4, 16, "relu"),
        {"is_input": False, "l_type": "Dropout", "structure": {"p": 0.4}, "activation": None},
        *linear(16, 1, "sigmoid"),
    ]
    values = {"rounds": 3, "epochs": 2, "batch_size": 8, "optimizer": "Adam", "lr": 0.01}

    first, second = (flat(federate(started, model, values).weights) for _ in range(2))
    other = flat(federate(started, model, {**values, "seed": 7}).weights)

    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


def test_counters_of_batch_normalisation_stay_whole_numbers(workers: Start) -> None:
    # 17, 33 and 25 rows in batches of 8 leave one row over, which has no variance of its own: it joins a batch.
    rows, steps = np.asarray([17, 33, 25]), np.asarray([2, 4, 3])
    started = workers({f"worker_{n}": {"train": separable(int(n), 4, 2, seed=int(n))} for n in sorted(rows)})
    norm = {"is_input": True, "l_type": "BatchNorm1d", "structure": {"num_features": 4}, "activation": None}
    values = {"rounds": 2, "epochs": 1, "batch_size": 8, "lr": 0.1}
    outcome = federate(started, [norm, *linear(4, 1, "sigmoid")], values)
    counter = outcome.weights["nnl_0_batchnorm1d.num_batches_tracked"].numpy()
    assert counter.dtype == np.int64
    # Each round adds the participants' mean number of steps, and rounds.
    share = (rows / rows.sum() * steps).sum()
    assert counter == np.rint(np.rint(share) + share)


def test_warming_up_twice_is_harmless() -> None:
    warm_up()
    warm_up()
