"""Run parameters: defaults that run, bounds, and free keys handed by name to whatever takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn, optim

from synergos.errors import Invalid
from synergos.federation.algorithms import ALGORITHMS
from synergos.federation.algorithms import REFUSED as REFUSED_ALGORITHMS
from synergos.federation.layers import TORCH_ERRORS
from synergos.federation.objectives import CRITERIONS, Objective, criterion_arguments
from synergos.federation.optimization import (
    OPTIMIZERS,
    REFUSED,
    SCHEDULERS,
    Schedule,
    make_optimizer,
    optimizer_arguments,
    scheduler_arguments,
)
from synergos.jobs import Action

# Accepted for the sake of old clients, without effect.
_WITHOUT_EFFECT = frozenset(
    {"run_id", "input_size", "output_size", "is_condensed", "is_snn", "precision_fractional", "use_CLR"}
    | {"cumulative_delta", "last_epoch"}
)


ClassWeights = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)]


class Parameters(BaseModel):
    """How one run trains. Free keys (momentum, max_lr, reduction, …) are in `model_extra`.

    `weight_decay` has no effect beside `l2_lambda`, which is the same thing; `mu` has none with FedAvg.

    Attributes:
        class_weights: weight of each class in the loss, in the order of the aligned classes; `balanced` weighs a class
            by how rare it is among all participants' training rows.
        min_participants: the run goes on while at least so many participants answer; None for all of them.
        grace: seconds that a participant may be away before it is given up.
        checkpoints: rounds between two checkpoints that are kept, 0 for none.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    algorithm: str = "FedProx"
    rounds: int = Field(10, ge=1, le=100_000)
    epochs: int = Field(100, ge=1, le=100_000)
    batch_size: int | None = Field(None, ge=1)
    lr: float = Field(0.001, gt=0)
    optimizer: str = "SGD"
    criterion: str = "BCELoss"
    lr_scheduler: str = "CyclicLR"
    lr_decay: float = Field(0.1, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    mu: float = Field(0.1, ge=0)
    l1_lambda: float = Field(0.0, ge=0)
    l2_lambda: float = Field(0.0, ge=0)
    patience: int = Field(10, ge=0)
    delta: float = Field(0.0, ge=0)
    class_weights: Literal["balanced"] | ClassWeights | None = None
    min_participants: int | None = Field(None, ge=1)
    grace: float = Field(60.0, ge=0, le=86_400)
    checkpoints: int = Field(0, ge=0)
    seed: int = Field(42, ge=0, lt=2**63)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the checked parameters; a null counts as absent. Raises `Invalid` naming every wrong one."""
        values = {key: value for key, value in values.items() if value is not None and key not in _WITHOUT_EFFECT}
        if values.get("lr_scheduler") == "":
            values["lr_scheduler"] = "LambdaLR"
        try:
            parameters = cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors())
            raise Invalid(f"Run parameters: {wrong}.") from None
        _known("algorithm", parameters.algorithm, ALGORITHMS, REFUSED_ALGORITHMS)
        _known("optimizer", parameters.optimizer, OPTIMIZERS, REFUSED)
        _known("lr_scheduler", parameters.lr_scheduler, SCHEDULERS, REFUSED)
        _known("criterion", parameters.criterion, CRITERIONS, {})
        extra = parameters.model_extra or {}
        if unknown := sorted(extra.keys() - _FREE):
            raise Invalid(
                f"Run parameters: unknown {', '.join(unknown)}. "
                f"Known: {', '.join(cls.model_fields)}; and where a criterion, optimizer or lr_scheduler takes it: "
                f"{', '.join(sorted(_FREE))}."
            )
        for key, value in extra.items():
            _check_value(key, value)
        return parameters

    def check(self, action: Action, final: str, width: int) -> None:
        """Try out criterion, optimiser and schedule on one weight; raises `Invalid` before any worker is asked."""
        weights = [1.0] * max(2, width) if self.class_weights == "balanced" else self.class_weights
        objective = self.objective(action, final, width, weights)  # type: ignore[arg-type]
        y = torch.zeros((2, 1)) if action == "regress" or width <= 2 else torch.zeros(2, dtype=torch.int64)
        weight = nn.Parameter(torch.zeros((2, width)))
        optimizer = self.make_optimizer([weight])
        schedule = self.make_schedule(optimizer, server_round=1, batches=1)
        try:
            objective.loss(weight, objective.target(y), objective.weight(y)).backward()  # type: ignore[no-untyped-call]
        except TORCH_ERRORS as error:
            raise Invalid(f"criterion {self.criterion}: {error}") from None
        try:
            optimizer.step()
            schedule.after_step()
            schedule.after_epoch(0.0)
        except TORCH_ERRORS as error:
            raise Invalid(f"optimizer {self.optimizer} or lr_scheduler {self.lr_scheduler}: {error}") from None

    def objective(
        self, action: Action, final: str, width: int, class_weights: Sequence[float] | None = None
    ) -> Objective:
        """Return the criterion for a model with `width` outputs behind the activation `final`.

        Args:
            class_weights: one per class, see `Objective`; what the field of that name comes to.
        """
        arguments = self._pick(criterion_arguments(self.criterion))
        return Objective(self.criterion, arguments, action, final, width, class_weights)

    def make_optimizer(self, weights: list[nn.Parameter]) -> optim.Optimizer:
        """Return a fresh optimiser of `weights`; its state does not outlive a round."""
        decay = 0.0 if self.l2_lambda else self.weight_decay
        return make_optimizer(self.optimizer, weights, self.lr, decay, self._pick(optimizer_arguments(self.optimizer)))

    def make_schedule(self, optimizer: optim.Optimizer, server_round: int, batches: int) -> Schedule:
        """Return the schedule at the start of round `server_round` (from 1) with `batches` steps per epoch."""
        return Schedule(
            self.lr_scheduler,
            self._pick(scheduler_arguments(self.lr_scheduler)),
            optimizer,
            lr=self.lr,
            lr_decay=self.lr_decay,
            epochs_total=self.rounds * self.epochs,
            epochs_done=(server_round - 1) * self.epochs,
            batches=batches,
        )

    def _pick(self, names: frozenset[str]) -> dict[str, Any]:
        extra = self.model_extra or {}
        return {key: tuple(extra[key]) if isinstance(extra[key], list) else extra[key] for key in names & extra.keys()}


_FREE: frozenset[str] = frozenset().union(
    *ALGORITHMS.values(),
    *(criterion_arguments(name) for name in CRITERIONS),
    *(optimizer_arguments(name) for name in OPTIMIZERS),
    *(scheduler_arguments(name) for name in SCHEDULERS),
) - set(Parameters.model_fields)


def _known(kind: str, name: str, supported: Iterable[str], refused: Mapping[str, str]) -> None:
    if name in supported:
        return
    why = f"{refused[name]}" if name in refused else "unknown"
    raise Invalid(f"{kind} {name!r} is not supported ({why}). Supported: {', '.join(supported)}.")


def _check_value(key: str, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if not isinstance(item, (bool, int, float, str)) or (isinstance(item, float) and not math.isfinite(item)):
            raise Invalid(f"Run parameter {key} must be a number, a text, true or false, or a list of these.")
