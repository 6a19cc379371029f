"""Run parameters, optimisers and schedules."""

from __future__ import annotations

import json
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
Rate = dict[str, Any]


def groups(optimizer: optim.Optimizer) -> Rate:
    """Return what a schedule may change."""
    group = optimizer.param_groups[0]
    return {name: group[name] for name in ("lr", "momentum", "betas") if name in group}


def rates(values: dict[str, Any], batches: int = 2, losses: list[float] | None = None) -> list[Rate]:
    """Return learning rate and momentum of every optimiser step of a run.

    Each round starts from scratch, with the state that the one before returned and JSON carried.
    """
    parameters = Parameters.read(values)
    seen: list[Rate] = []
    state: str | None = None
    for server_round in range(1, parameters.rounds + 1):
        optimizer = parameters.make_optimizer([nn.Parameter(torch.zeros(1))])
        schedule = parameters.make_schedule(optimizer, server_round, batches)
        if state:
            schedule.restore(json.loads(state))
        for epoch in range(parameters.epochs):
            for _ in range(batches):
                seen.append(groups(optimizer))
                schedule.after_step()
            schedule.after_epoch(losses[(server_round - 1) * parameters.epochs + epoch] if losses else 1.0)
        state = json.dumps(schedule.state, allow_nan=False) if schedule.state else None
    return seen


def straight(
    optimizer: optim.Optimizer, scheduler: Any, steps: int, repeat: int, losses: list[float] | None = None, **more: Any
) -> list[Rate]:
    """Return what torch's own scheduler does over one uninterrupted run."""
    schedule = scheduler(optimizer, **more)
    seen: list[Rate] = []
    for step in range(steps):
        seen += [groups(optimizer)] * repeat
        optimizer.step()
        schedule.step(*([losses[step]] if losses else []))
    return seen


def test_defaults_of_the_driver_run() -> None:
    parameters = Parameters.read(DRIVER)
    parameters.check("classify", "sigmoid", 1)
    assert parameters == Parameters()
    first, second = rates({"rounds": 1, "epochs": 3, "lr": 0.1})[:2]
    assert (first["lr"], second["lr"]) == (0.1, pytest.approx(0.1 + 0.9 / 2000))


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


# What torch is told -> what the run is told beside it, and whether torch takes a step per batch.
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "CyclicLR": ({"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 5, "mode": "triangular2"}, {}, True),
    "OneCycleLR": ({"max_lr": 0.3, "pct_start": 0.4, "total_steps": 24}, {}, True),
    "LambdaLR": ({"lr_lambda": lambda epoch: 1 / (1 + 0.5 * epoch)}, {"lr_decay": 0.5}, False),
    "StepLR": ({"step_size": 5, "gamma": 0.5}, {}, False),
    "MultiStepLR": ({"milestones": [2, 5, 11], "gamma": 0.3}, {}, False),
    "ConstantLR": ({"factor": 0.2, "total_iters": 5}, {}, False),
    "LinearLR": ({"start_factor": 0.1, "total_iters": 7}, {}, False),
    "ExponentialLR": ({"gamma": 0.8}, {}, False),
    "PolynomialLR": ({"total_iters": 9, "power": 2.0}, {}, False),
    "CosineAnnealingLR": ({"T_max": 12}, {}, False),
    "CosineAnnealingWarmRestarts": ({"T_0": 3, "T_mult": 2}, {}, False),
}


@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {"ReduceLROnPlateau"}))
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("rounds", "epochs"), [(3, 4), (12, 1), (1, 12)])
def test_schedules_are_those_of_torch_over_all_rounds(name: str, optimizer: str, rounds: int, epochs: int) -> None:
    told, beside, per_step = SCHEDULES[name]
    hidden = {"lr_lambda", "total_steps"}
    values = {
        **{key: value for key, value in told.items() if key not in hidden},
        **{"lr": 0.1, "rounds": rounds, "epochs": epochs, "lr_scheduler": name, "optimizer": optimizer, **beside},
    }
    momentum = {"momentum": 0.9} if optimizer == "SGD" else {}
    reference = getattr(optim, optimizer)([nn.Parameter(torch.zeros(1))], lr=0.1, **momentum)
    expected = straight(
        reference, getattr(torch_schedulers, name), 24 if per_step else 12, 1 if per_step else 2, **told
    )
    assert rates({**values, **momentum}) == [
        {key: pytest.approx(value) for key, value in step.items()} for step in expected
    ]


@pytest.mark.parametrize(("rounds", "epochs"), [(60, 1), (12, 5), (1, 60)])
def test_a_plateau_lowers_the_rate_across_rounds(rounds: int, epochs: int) -> None:
    # It falls, stays, falls a little less than the threshold asks for, and falls again.
    losses = [*[1 / (1 + i) for i in range(5)], *[0.2] * 20, *[0.1 - 0.00001 * i for i in range(30)], *[0.01] * 5]
    told = {"factor": 0.5, "cooldown": 2, "threshold": 0.01}
    reference = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = straight(reference, torch_schedulers.ReduceLROnPlateau, 60, 2, losses, **told)
    values = {"lr": 0.1, "rounds": rounds, "epochs": epochs, "lr_scheduler": "ReduceLROnPlateau", **told}
    assert rates(values, losses=losses) == expected
    assert [expected[0]["lr"], expected[-1]["lr"]] == [0.1, 0.0125]


# What torch is told, by the names of its constructor: the run's free parameters of the same names.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"betas": [0.8, 0.99], "amsgrad": True},
    "AdamW": {"eps": 1e-6},
    "Adamax": {"betas": [0.8, 0.99]},
    "NAdam": {"momentum_decay": 0.01},
    "RAdam": {"eps": 1e-6},
    "Adadelta": {"rho": 0.8},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "ASGD": {"lambd": 0.01, "t0": 2.0},
    "RMSprop": {"alpha": 0.9, "centered": True},
    "Rprop": {"etas": [0.4, 1.3]},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_are_those_of_torch(name: str) -> None:
    decay = {} if name == "Rprop" else {"weight_decay": 0.1}
    values = {"optimizer": name, "lr": 0.05, **ARGUMENTS[name], **decay}
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in ARGUMENTS[name].items()}
    own, expected = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimizer = Parameters.read(values).make_optimizer([own])
    reference = getattr(optim, name)([expected], lr=0.05, **told, **decay)
    for _ in range(6):
        for weight, each in ((own, optimizer), (expected, reference)):
            each.zero_grad()
            (weight - 0.5).square().sum().backward()
            each.step()
    torch.testing.assert_close(own, expected, rtol=0, atol=0)


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
