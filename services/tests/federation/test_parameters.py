"""Run parameters, optimisers and schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as torch_schedulers

from synergos.errors import Invalid
from synergos.federation.optimization import OPTIMIZERS, SCHEDULERS
from synergos.federation.parameters import Parameters

# What the Driver sends for `runs.create(c, p, e, r)` without further arguments.
DRIVER = {
    "algorithm": "FedProx", "rounds": 10, "epochs": 100, "lr": 0.001, "weight_decay": 0.0, "lr_decay": 0.1, "mu": 0.1,
    "l1_lambda": 0.0, "l2_lambda": 0.0, "optimizer": "SGD", "criterion": "BCELoss", "lr_scheduler": "CyclicLR",
    "delta": 0.0, "patience": 10, "seed": 42, "is_snn": False, "precision_fractional": 5,
}  # fmt: skip
NEEDED = {
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5]},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
}


def rates(values: dict[str, Any], batches: int = 2) -> list[float]:
    """Return the learning rate of every optimiser step of a run, each round from scratch."""
    parameters = Parameters.read(values)
    seen = []
    for server_round in range(1, parameters.rounds + 1):
        optimizer = parameters.make_optimizer([nn.Parameter(torch.zeros(1))])
        schedule = parameters.make_schedule(optimizer, server_round, batches)
        for _ in range(parameters.epochs):
            for _ in range(batches):
                seen.append(optimizer.param_groups[0]["lr"])
                schedule.after_step()
            schedule.after_epoch(1.0)
    return seen


def straight(scheduler: Any, steps: int, repeat: int, lr: float = 0.1, **arguments: Any) -> list[float]:
    """Return what torch's own scheduler does over one uninterrupted run."""
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = scheduler(optimizer, **arguments)
    seen: list[float] = []
    for _ in range(steps):
        seen += [optimizer.param_groups[0]["lr"]] * repeat
        optimizer.step()
        schedule.step()
    return seen


def test_defaults_of_the_driver_run() -> None:
    parameters = Parameters.read(DRIVER)
    parameters.check("classify", "sigmoid", 1)
    assert parameters == Parameters()
    assert rates({"rounds": 1, "epochs": 3, "lr": 0.1})[:2] == [0.1, pytest.approx(0.1 + 0.9 / 2000)]


def test_null_counts_as_absent_and_falsy_values_count() -> None:
    parameters = Parameters.read({"lr": None, "batch_size": None, "lr_scheduler": "", "lr_decay": 0, "momentum": 0.0})
    assert (parameters.lr, parameters.batch_size, parameters.lr_scheduler) == (0.001, None, "LambdaLR")
    assert parameters.lr_decay == 0
    cyclic = Parameters.read({"cycle_momentum": False, "momentum": 0.3})
    optimizer = cyclic.make_optimizer([nn.Parameter(torch.zeros(1))])
    cyclic.make_schedule(optimizer, 1, 1)
    assert optimizer.param_groups[0]["momentum"] == 0.3


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", ["CyclicLR", "OneCycleLR", "LambdaLR"])
def test_every_optimiser_steps_under_every_kind_of_schedule(name: str, scheduler: str) -> None:
    values = {
        "optimizer": name,
        "lr_scheduler": scheduler,
        "criterion": "MSELoss",
        "rounds": 3,
        "epochs": 2,
        "lr": 0.01,
    }
    parameters = Parameters.read(values)
    parameters.check("regress", "", 1)
    weight = nn.Parameter(torch.ones(1))
    optimizer = parameters.make_optimizer([weight])
    for server_round in (1, 3):
        schedule = parameters.make_schedule(optimizer, server_round, 2)
        weight.square().sum().backward()
        before = weight.item()
        optimizer.step()
        schedule.after_step()
        assert weight.item() < before


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_goes_on_over_rounds(name: str) -> None:
    values = {"lr": 0.1, "lr_scheduler": name, **NEEDED.get(name, {})}
    Parameters.read({**values, "criterion": "MSELoss"}).check("regress", "", 1)
    if name == "ReduceLROnPlateau":
        return
    assert rates({**values, "rounds": 4, "epochs": 3}) == pytest.approx(rates({**values, "rounds": 1, "epochs": 12}))


def test_schedules_are_those_of_torch() -> None:
    run = {"lr": 0.1, "rounds": 3, "epochs": 4}
    cyclic = {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 5, "mode": "triangular2"}
    assert rates({**run, "lr_scheduler": "CyclicLR", **cyclic}) == pytest.approx(
        straight(torch_schedulers.CyclicLR, 24, 1, cycle_momentum=False, **cyclic)
    )
    assert rates({**run, "lr_scheduler": "OneCycleLR", "max_lr": 0.3}) == pytest.approx(
        straight(torch_schedulers.OneCycleLR, 24, 1, max_lr=0.3, total_steps=24, cycle_momentum=False)
    )
    assert rates({**run, "lr_scheduler": "StepLR", "step_size": 5, "gamma": 0.5}) == pytest.approx(
        straight(torch_schedulers.StepLR, 12, 2, step_size=5, gamma=0.5)
    )
    # The decay that the original meant and multiplied by lr once too often.
    assert rates({**run, "lr_scheduler": "LambdaLR", "lr_decay": 0.5})[::2] == pytest.approx(
        [0.1 / (1 + 0.5 * epoch) for epoch in range(12)]
    )


def test_plateau_lowers_the_rate_across_rounds() -> None:
    parameters = Parameters.read({"lr": 0.1, "lr_scheduler": "ReduceLROnPlateau", "factor": 0.5, "epochs": 1})
    state = None
    for server_round in range(1, 13):
        optimizer = parameters.make_optimizer([nn.Parameter(torch.zeros(1))])
        schedule = parameters.make_schedule(optimizer, server_round, 1)
        if state:
            schedule.restore(state)
        schedule.after_epoch(1.0)
        state = schedule.state
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_weight_decay_is_what_l2_lambda_is_not_both() -> None:
    decays = {"weight_decay": 0.1}
    weight = nn.Parameter(torch.zeros(1))
    assert Parameters.read(decays).make_optimizer([weight]).param_groups[0]["weight_decay"] == 0.1
    both = Parameters.read({**decays, "l2_lambda": 0.1})
    assert both.make_optimizer([weight]).param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"algorithm": "__init__"}, "algorithm '__init__' is unknown"),
        ({"lr_lambda": "x"}, "'lr_lambda' is unknown"),
        ({"ignore_index": 1}, "'ignore_index' is unknown"),
        ({"momentum": {"a": 1}}, "momentum = {'a': 1} must be a finite number"),
    ],
)
def test_wrong_values(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        Parameters.read(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nesterov": True}, "optimizer SGD: Nesterov"),
        ({"lr_scheduler": "ReduceLROnPlateau", "factor": 2}, "lr_scheduler ReduceLROnPlateau: Factor"),
        ({"lr_scheduler": "OneCycleLR", "pct_start": 3}, "lr_scheduler OneCycleLR: .*pct_start"),
        ({"lr_scheduler": "CosineAnnealingWarmRestarts", "T_0": 1.5}, "T_0 = 1.5 must be a whole number"),
        ({"criterion": "HuberLoss", "reduction": "average"}, "criterion HuberLoss: reduction 'average'"),
    ],
)
def test_values_that_torch_refuses_are_found_before_a_run(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        Parameters.read({"criterion": "MSELoss", **values}).check("regress", "", 1)
