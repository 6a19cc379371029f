"""Run parameters: defaults that run, bounds, and free keys handed by name to whatever takes them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn, optim

from synergos.errors import Invalid
from synergos.federation.algorithms import ALGORITHMS
from synergos.federation.algorithms import REFUSED as REFUSED_ALGORITHMS
from synergos.federation.layers import TORCH_ERRORS
from synergos.federation.objectives import CRITERIONS, Objective, criterion_arguments
from synergos.federation.objectives import REFUSED as REFUSED_CRITERIONS
from synergos.federation.optimization import (
    OPTIMIZERS,
    REFUSED,
    SCHEDULERS,
    Schedule,
    make_optimizer,
    optimizer_arguments,
    scheduler_arguments,
)
from synergos.federation.wording import choose, must
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
        # Pydantic would take true for 1.
        wrong = {key: "must be a number" for key in cls.model_fields if isinstance(values.get(key), bool)}
        try:
            parameters = cls.model_validate(values)
        except ValidationError as error:
            wrong |= {str(each["loc"][0]): must(each) for each in error.errors()}
        if "class_weights" in wrong:
            wrong["class_weights"] = "must be 'balanced', or a list of two or more positive numbers, one per class"
        if wrong:
            raise Invalid(f"Run parameters: {'; '.join(f'{k} = {values[k]!r} {what}' for k, what in wrong.items())}.")
        _known("algorithm", parameters.algorithm, ALGORITHMS, REFUSED_ALGORITHMS)
        _known("optimizer", parameters.optimizer, OPTIMIZERS, REFUSED)
        _known("lr_scheduler", parameters.lr_scheduler, SCHEDULERS, REFUSED)
        _known("criterion", parameters.criterion, CRITERIONS, REFUSED_CRITERIONS)
        extra = parameters.model_extra or {}
        if unknown := sorted(extra.keys() - _FREE):
            known = [*cls.model_fields, *sorted(_FREE)]
            raise Invalid(f"Run parameters: {unknown[0]!r} is unknown. {choose(unknown[0], known)}")
        for key, value in extra.items():
            if what := _fault(key, value):
                raise Invalid(f"Run parameters: {key} = {value!r} must be {what}.")
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


# Free keys that are counted, and such that no negative number makes sense for.
_COUNTS = frozenset({"step_size", "step_size_up", "step_size_down", "T_0", "T_max", "T_mult", "total_iters"})
_NOT_NEGATIVE = frozenset({"momentum", "eps", "alpha", "rho", "lambd", "base_lr", "max_lr", "min_lr", "cooldown"})


def _examples() -> dict[str, Any]:
    """Return the default of each free key that is a text, a truth value or a list; `milestones` has none."""
    classes = (*OPTIMIZERS.values(), *SCHEDULERS.values(), *(entry[0] for entry in CRITERIONS.values()))
    found = {name: p.default for each in classes for name, p in inspect.signature(each).parameters.items()}
    return {"milestones": (), **{key: value for key, value in found.items() if isinstance(value, (str, bool, tuple))}}


_EXAMPLES = _examples()


def _fault(key: str, value: Any) -> str:
    """Return what a free key must be instead of `value`, "" if it may be that."""
    example = _EXAMPLES.get(key)
    if isinstance(example, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(example, str):
        return "" if isinstance(value, str) else "a text"
    if isinstance(example, tuple):
        length = len(example) or "increasing"
        if not isinstance(value, list) or not all(map(_is_number, value)) or (example and len(value) != len(example)):
            return f"a list of {length} numbers"
        return "two numbers from 0, below 1" if key == "betas" and not all(0 <= beta < 1 for beta in value) else ""
    if not _is_number(value):
        return "a finite number"
    if key in _COUNTS and (value != int(value) or value < 1):
        return "a whole number from 1"
    return "0 or more" if key in _NOT_NEGATIVE and value < 0 else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _known(kind: str, name: str, supported: Collection[str], refused: Mapping[str, str]) -> None:
    if name in supported:
        return
    if name in refused:
        raise Invalid(f"{kind} {name!r} is not supported ({refused[name]}). {choose('', supported)}")
    raise Invalid(f"{kind} {name!r} is unknown. {choose(name, supported)}")
