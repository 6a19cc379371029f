"""One participant's part of a round."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worker_double import linear, separable

from synergos.errors import Invalid
from synergos.federation import training
from synergos.federation.layers import Network, probe
from synergos.federation.parameters import Parameters
from synergos.federation.sessions import Split

CONSTANT = {"lr_scheduler": "LambdaLR", "lr_decay": 0, "momentum": 0.0}
IMAGES: list[dict[str, Any]] = [
    {"l_type": "Conv2d", "structure": {"in_channels": 3, "out_channels": 4, "kernel_size": 3}, "activation": "relu"},
    {"l_type": "MaxPool2d", "structure": {"kernel_size": 2}, "activation": None},
    {"l_type": "Flatten", "structure": {}, "activation": None},
    {"l_type": "Linear", "structure": {"in_features": 4 * 9 * 9, "out_features": 2}, "activation": "softmax"},
]


def pictures(rows: int, side: int = 20, seed: int = 1) -> Split:
    """Images whose upper or lower half is brighter, as bytes."""
    generator = np.random.default_rng(seed)
    X = generator.integers(0, 100, size=(rows, 3, side, side), dtype=np.uint8)
    y = generator.integers(0, 2, size=rows)
    for row, lower in enumerate(y):
        X[row, :, side // 2 :] += np.uint8(120 * lower)
        X[row, :, : side // 2] += np.uint8(120 * (1 - lower))
    return Split(X, y.astype(np.float32)[:, None])


def fit(model: list[Any], split: Split, values: dict[str, Any], **options: Any) -> tuple[Network, float, Any]:
    parameters = Parameters.read({"criterion": "NLLLoss", **CONSTANT, **values})
    torch.manual_seed(5)
    network = Network(model)
    outline, width = probe(model, split.X.shape[1:])
    network.footprint = outline.footprint
    objective = parameters.objective("classify", network.final, width, options.pop("class_weights", None))
    data = training.Labelled.of(split, objective, "train")
    turn = training.Turn(2, options.pop("server_round", 1))
    loss, state = training.fit(network, data, parameters, objective, turn, mu=0, is_open=lambda: True, **options)
    return network, loss, state


def fresh(model: list[Any]) -> Network:
    torch.manual_seed(5)
    return Network(model)


def assert_same(network: nn.Module, reference: nn.Module, atol: float = 1e-6) -> None:
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_bytes_of_images_are_trained_on_as_fractions(batch_size: int | None) -> None:
    split = pictures(30)
    values = {"epochs": 3, "lr": 0.1, "batch_size": batch_size}
    network, _, _ = fit(IMAGES, split, values)
    assert split.X.dtype == np.uint8
    expected, _, _ = fit(IMAGES, Split(split.X.astype(np.float32) / 255, split.y), values)
    assert_same(network, expected)
    objective = Parameters.read({"criterion": "NLLLoss"}).objective("classify", "softmax", 2)
    y_pred, y_score = training.infer(fit(IMAGES, split, {"epochs": 40, "lr": 0.05})[0], split.X, objective)
    assert (y_pred == split.y[:, 0]).mean() > 0.9
    assert y_score.shape == (30, 1)


@pytest.mark.parametrize("criterion", ["NLLLoss", "MSELoss", "KLDivLoss", "MultiMarginLoss"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weights", [None, [3.0, 0.5]])
def test_a_batch_in_pieces_is_the_batch(
    criterion: str, reduction: str, class_weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = pictures(23)
    values = {"criterion": criterion, "epochs": 2, "lr": 0.01, "batch_size": 16, "reduction": reduction}
    whole, loss, _ = fit(IMAGES, split, values, class_weights=class_weights)
    monkeypatch.setattr(training, "_ROWS", 5)
    pieces, same, _ = fit(IMAGES, split, values, class_weights=class_weights)
    assert_same(pieces, whole)
    assert same == pytest.approx(loss, rel=1e-5)


def own_peak() -> int:
    """Return the most bytes that this process has held, pages of files included."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def test_a_set_in_a_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """8000 images are 29 MB as bytes, 118 MB as numbers, and 320 MB between the layers, as much for gradients."""
    side, rows = 35, 8000
    path = tmp_path / "X.npy"
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, 3, side, side))
    X[:] = (np.arange(rows) % 2 * 100).astype(np.uint8)[:, None, None, None]
    del X
    split = Split(np.load(path, mmap_mode="r"), np.arange(rows, dtype=np.float32)[:, None] % 2)
    model = copy.deepcopy(IMAGES)
    model[3]["structure"]["in_features"] = 4 * 16 * 16
    fit(model, Split(split.X[:64], split.y[:64]), {"epochs": 1})  # what torch loads on first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = own_peak()
    for batch_size in (64, None):
        network, _, _ = fit(model, split, {"epochs": 1, "lr": 0.01, "batch_size": batch_size})
    training.infer(network, split.X, Parameters.read({"criterion": "NLLLoss"}).objective("classify", "softmax", 2))
    assert own_peak() - before - path.stat().st_size < 250e6


def separated(rows: int = 60) -> Split:
    return separable(rows, 4, 3, seed=1)


@pytest.mark.parametrize(("l1", "l2"), [(0.05, 0.0), (0.0, 0.3), (0.02, 0.1)])
def test_penalties_are_those_of_plain_torch(l1: float, l2: float) -> None:
    split, model = separated(), [*linear(4, 5, "tanh"), *linear(5, 3, "softmax")]
    network, _, _ = fit(model, split, {"epochs": 8, "lr": 0.1, "l1_lambda": l1, "l2_lambda": l2})
    reference = fresh(model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    X, y = torch.from_numpy(split.X), torch.from_numpy(split.y)
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(reference.raw(X), y)
        for weight in reference.parameters():
            loss = loss + l1 * weight.abs().sum() + l2 / 2 * weight.square().sum()
        loss.backward()
        optimizer.step()
    assert_same(network, reference)


def test_class_weights_are_those_of_plain_torch() -> None:
    """Torch divides by the batch's weights; here the mean is over rows, which is one more factor."""
    split, model, weights = separated(), linear(4, 3, "softmax"), [0.5, 4.0, 1.5]
    network, loss, _ = fit(model, split, {"epochs": 5, "lr": 0.1}, class_weights=weights)
    reference = fresh(model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    X, y, w = torch.from_numpy(split.X), torch.from_numpy(split.y), torch.tensor(weights)
    for _ in range(5):
        optimizer.zero_grad()
        expected = F.cross_entropy(reference.raw(X), y, weight=w) * w[y].sum() / len(y)
        expected.backward()
        optimizer.step()
    assert_same(network, reference)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_lift_a_rare_class() -> None:
    generator = np.random.default_rng(0)
    X = np.concatenate([generator.normal(0, 1, (190, 2)), generator.normal(1.2, 1, (10, 2))]).astype(np.float32)
    split = Split(X, np.repeat(np.asarray([0, 1], np.float32), [190, 10])[:, None])
    values = {"criterion": "BCELoss", "epochs": 200, "patience": 200, "lr": 0.3}
    objective = Parameters.read(values).objective("classify", "sigmoid", 1)
    found = []
    for weights in (None, [200 / 380, 200 / 20]):
        network, _, _ = fit(linear(2, 1, "sigmoid"), split, values, class_weights=weights)
        y_pred, _ = training.infer(network, split.X, objective)
        found.append(int(y_pred[190:].sum()))
    assert found[0] <= 3
    assert found[1] >= 7


def test_the_best_epoch_is_what_stagnation_leaves() -> None:
    """With a step size that overshoots, the loss falls, then rises until patience ends."""
    split, model = separated(), linear(4, 3, "softmax")
    values = {"lr_scheduler": "ExponentialLR", "gamma": 3.0, "lr": 0.1, "patience": 2}
    losses, states = [], []
    reference = fresh(model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    X, y = torch.from_numpy(split.X), torch.from_numpy(split.y)
    for epoch in range(12):
        optimizer.param_groups[0]["lr"] = 0.1 * 3**epoch
        optimizer.zero_grad()
        loss = F.cross_entropy(reference.raw(X), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        states.append(copy.deepcopy(reference))
    best = int(np.argmin(losses))
    assert best + 4 < 12
    assert losses[best + 1 : best + 4] == sorted(losses[best + 1 : best + 4]) or min(losses[best + 1 :]) > losses[best]
    network, loss, _ = fit(model, split, {**values, "epochs": 12})
    assert loss == pytest.approx(losses[best], rel=1e-5)
    assert_same(network, states[best], atol=1e-5)
    # Whoever comes to the last epoch without stagnation keeps what it has.
    network, loss, _ = fit(model, split, {**values, "epochs": best + 2})
    assert loss == pytest.approx(losses[best + 1], rel=1e-5)
    assert_same(network, states[best + 1], atol=1e-4)


def test_batch_normalisation_is_restored_with_its_statistics() -> None:
    norm = {"l_type": "BatchNorm1d", "structure": {"num_features": 4}, "activation": None}
    network, _, _ = fit([norm, *linear(4, 3, "softmax")], separated(), {"epochs": 30, "lr": 1e-30, "patience": 1})
    # Nothing improves after the first epoch: its counter says one step.
    assert network.state_dict()["nnl_0_batchnorm1d.num_batches_tracked"] == 1


def test_batch_normalisation_needs_two_rows() -> None:
    norm = {"l_type": "BatchNorm1d", "structure": {"num_features": 4}, "activation": None}
    with pytest.raises(Invalid, match="batches of two rows or more: raise batch_size, or use LayerNorm"):
        fit([norm, *linear(4, 3, "softmax")], separated(), {"epochs": 1, "batch_size": 1})


def test_a_schedule_goes_on_from_what_it_was_told() -> None:
    """Two rounds of six epochs, the state of the first through JSON, are one of twelve in the rate they end with."""
    values = {"lr_scheduler": "ReduceLROnPlateau", "factor": 0.5, "threshold": 0.5, "lr": 0.01, "rounds": 2}
    split, model = separated(), linear(4, 3, "softmax")
    _, _, whole = fit(model, split, {**values, "epochs": 26, "patience": 100})
    _, _, first = fit(model, split, {**values, "epochs": 13, "patience": 100})
    state = json.loads(json.dumps(first, allow_nan=False))
    _, _, second = fit(model, split, {**values, "epochs": 13, "patience": 100}, server_round=2, schedule=state)
    assert first["lr"] == 0.005
    assert whole["lr"] == second["lr"] == 0.0025
    assert second["last_epoch"] == 26
    with pytest.raises(Invalid, match="no state of the schedule"):
        fit(model, split, {**values, "epochs": 1}, schedule={"lr": 1.0})


def test_the_processor_is_used_where_there_is_no_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training.device() == torch.device("cuda")
