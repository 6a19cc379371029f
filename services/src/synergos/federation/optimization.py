"""Optimisers and learning-rate schedules, built from torch by allow-list."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn, optim
from torch.optim import lr_scheduler

from synergos.errors import Invalid
from synergos.federation.layers import TORCH_ERRORS

OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "SGD": optim.SGD,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "Adadelta": optim.Adadelta,
    "Adagrad": optim.Adagrad,
    "ASGD": optim.ASGD,
    "RMSprop": optim.RMSprop,
    "Rprop": optim.Rprop,
}
SCHEDULERS: dict[str, type[lr_scheduler.LRScheduler]] = {
    "CyclicLR": lr_scheduler.CyclicLR,
    "OneCycleLR": lr_scheduler.OneCycleLR,
    "LambdaLR": lr_scheduler.LambdaLR,
    "StepLR": lr_scheduler.StepLR,
    "MultiStepLR": lr_scheduler.MultiStepLR,
    "ConstantLR": lr_scheduler.ConstantLR,
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lr_scheduler.ExponentialLR,
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "CosineAnnealingLR": lr_scheduler.CosineAnnealingLR,
    "CosineAnnealingWarmRestarts": lr_scheduler.CosineAnnealingWarmRestarts,
    "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
}
REFUSED: dict[str, str] = {
    "LBFGS": "it evaluates the loss several times per step, which a federated round does not offer",
    "SparseAdam": "it needs sparse gradients, which no supported layer gives",
    "MultiplicativeLR": "it takes a function; ExponentialLR with gamma multiplies by a constant",
    "SequentialLR": "it takes other schedulers",
    "ChainedScheduler": "it takes other schedulers",
}
# Settled by this module or of no use in a run.
_WITHHELD = frozenset(
    {
        "params",
        "lr",
        "weight_decay",
        "foreach",
        "capturable",
        "differentiable",
        "fused",
        "maximize",
        "decoupled_weight_decay",
    }
    | {"optimizer", "verbose", "last_epoch", "lr_lambda", "scale_fn", "epochs", "steps_per_epoch", "total_steps"}
    | {"patience"}
)
# Cycles are counted in steps of the optimiser, everything else in epochs.
_PER_STEP = frozenset({"CyclicLR", "OneCycleLR"})
# What a text may be.
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "CyclicLR": {"mode": ("triangular", "triangular2", "exp_range"), "scale_mode": ("cycle", "iterations")},
    "OneCycleLR": {"anneal_strategy": ("cos", "linear")},
    "ReduceLROnPlateau": {"mode": ("min",), "threshold_mode": ("rel", "abs")},
}
# What ReduceLROnPlateau counts.
_COUNTERS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
# Functions of the position alone, which can be put anywhere; others get there step by step.
_DIRECT = _PER_STEP | {"LambdaLR"}


@functools.cache
def optimizer_arguments(name: str) -> frozenset[str]:
    """Return the free run parameters that optimiser `name` takes."""
    return frozenset(inspect.signature(OPTIMIZERS[name]).parameters) - _WITHHELD


@functools.cache
def scheduler_arguments(name: str) -> frozenset[str]:
    """Return the free run parameters that scheduler `name` takes."""
    return frozenset(inspect.signature(SCHEDULERS[name]).parameters) - _WITHHELD


def make_optimizer(
    name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float, arguments: dict[str, Any]
) -> optim.Optimizer:
    """Return a fresh optimiser; raises `Invalid`."""
    if weight_decay:
        if "weight_decay" not in inspect.signature(OPTIMIZERS[name]).parameters:
            raise Invalid(f"optimizer {name} has no weight_decay: use l2_lambda instead.")
        arguments = {**arguments, "weight_decay": weight_decay}
    try:
        return OPTIMIZERS[name](parameters, lr=lr, **arguments)  # type: ignore[call-arg]
    except TORCH_ERRORS as error:
        raise Invalid(f"optimizer {name}: {error}") from None


class Schedule:
    """A learning-rate schedule over all rounds of a run, placed at the start of one round.

    A worker keeps nothing between rounds: the schedule is moved to where the earlier rounds left it. Only
    `ReduceLROnPlateau`, which depends on losses, has a `state` to be handed on.

    Args:
        name: a key of `SCHEDULERS`.
        arguments: its own arguments.
        optimizer: whose learning rate it sets.
        lr: the run's learning rate.
        lr_decay: LambdaLR only: the rate after e epochs is lr / (1 + lr_decay * e).
        epochs_total: epochs of the whole run, all rounds together.
        epochs_done: epochs of the earlier rounds.
        batches: optimiser steps per epoch.

    Raises `Invalid` if the arguments do not fit.
    """

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        optimizer: optim.Optimizer,
        *,
        lr: float,
        lr_decay: float,
        epochs_total: int,
        epochs_done: int,
        batches: int,
    ) -> None:
        self._per_step = name in _PER_STEP
        arguments = {**_defaults(name, optimizer, lr, lr_decay, epochs_total, batches), **arguments}
        for key, known in _CHOICES.get(name, {}).items():
            if arguments.get(key, known[0]) not in known:
                raise Invalid(f"lr_scheduler {name}: {key} = {arguments[key]!r} must be {' or '.join(known)}.")
        if missing := _required(name) - arguments.keys():
            raise Invalid(f"lr_scheduler {name} needs the run parameter {', '.join(sorted(missing))}.")
        try:
            self._scheduler = SCHEDULERS[name](optimizer, **arguments)
            # torch warns of a schedule that moves before its optimiser; without gradients a step changes no weight.
            optimizer.zero_grad()
            optimizer.step()
            if name in _DIRECT:
                if epochs_done:
                    self._scheduler.last_epoch = epochs_done * (batches if self._per_step else 1) - 1
                    self._scheduler.step()
            elif name != "ReduceLROnPlateau":
                for _ in range(epochs_done):
                    self._scheduler.step()
        except TORCH_ERRORS as error:
            raise Invalid(f"lr_scheduler {name}: {error}") from None

    def after_step(self) -> None:
        """Move on after a step of the optimiser."""
        if self._per_step:
            self._scheduler.step()

    def after_epoch(self, loss: float) -> None:
        """Move on after an epoch with this mean `loss`."""
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif not self._per_step:
            self._scheduler.step()

    @property
    def state(self) -> dict[str, float] | None:
        """What the next round needs to continue, fit for JSON; None where the position is enough."""
        scheduler = self._scheduler
        if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            return None
        counters = {name: getattr(scheduler, name) for name in _COUNTERS}
        return {"lr": scheduler.optimizer.param_groups[0]["lr"], **counters}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from the `state` of the round before; raises `Invalid`."""
        if not isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau) or state.keys() != {"lr", *_COUNTERS}:
            raise Invalid(f"This is no state of the schedule {type(self._scheduler).__name__}: {dict(state)}.")
        for name in _COUNTERS:
            setattr(self._scheduler, name, state[name])
        for group in self._scheduler.optimizer.param_groups:
            group["lr"] = state["lr"]


@functools.cache
def _required(name: str) -> frozenset[str]:
    parameters = inspect.signature(SCHEDULERS[name]).parameters.items()
    return frozenset(key for key, parameter in parameters if parameter.default is parameter.empty) - {"optimizer"}


def _defaults(
    name: str, optimizer: optim.Optimizer, lr: float, lr_decay: float, epochs_total: int, batches: int
) -> dict[str, Any]:
    # torch cycles the momentum unless told otherwise, and refuses optimisers that have none.
    cycles = {} if {"momentum", "betas"} & optimizer.defaults.keys() else {"cycle_momentum": False}
    if name == "CyclicLR":
        return {"base_lr": lr, "max_lr": 10 * lr, **cycles}
    if name == "OneCycleLR":
        return {"max_lr": 10 * lr, "total_steps": epochs_total * batches, **cycles}
    if name == "LambdaLR":
        return {"lr_lambda": lambda epoch: 1 / (1 + lr_decay * epoch)}
    if name == "CosineAnnealingLR":
        return {"T_max": epochs_total}
    return {}
