"""What a request for a search may say, and what the names of the original's libraries stand for here."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationError

from synergos.errors import Invalid
from synergos.federation.wording import choose
from synergos.jobs import Action
from synergos.orchestrator.schemas import Count, Integer, Order, RunChanges
from synergos.rest import describe, shorten
from synergos.search.space import Range

Mode = Literal["max", "min"]
Sampler = Literal["tpe", "random"]
Pruner = Literal["halving", "hyperband", "median", "none"]

# The figures of a validation by which trials can be told apart, and what is good.
METRICS: Mapping[Action, Mapping[str, Mode]] = {
    "regress": {"R2": "max", "MSE": "min", "MAE": "min"},
    "classify": {
        **dict.fromkeys(("accuracy", "roc_auc_score", "pr_auc_score", "f_score"), "max"),
        **dict.fromkeys(("TPRs", "TNRs", "PPVs", "NPVs"), "max"),
        **dict.fromkeys(("FPRs", "FNRs", "FDRs"), "min"),
        "overall_accuracy": "max",
        **{
            f"{average}_{name}": "max"
            for average in ("macro", "weighted")
            for name in ("precision", "recall", "f_score")
        },
    },
}
# Named so, Ray Tune draws at random. Whoever names nothing gets a search.
SEARCHERS: Mapping[str, Sampler] = {
    "BasicVariantGenerator": "random",
    **dict.fromkeys(("OptunaSearch", "HyperOptSearch", "TuneBOHB", "BayesOptSearch", "AxSearch", "SkOptSearch"), "tpe"),
}
SCHEDULERS: Mapping[str, Pruner] = {
    "AsyncHyperBandScheduler": "halving",
    "ASHAScheduler": "halving",
    "HyperBandScheduler": "hyperband",
    "HyperBandForBOHB": "hyperband",
    "MedianStoppingRule": "median",
    "FIFOScheduler": "none",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST = 52 * _UNITS["w"]
_TOKEN = re.compile(r"([0-9]{1,9})([smhdw]?)")


def _backend(value: str) -> str:
    if value != "tune":
        raise ValueError(f"Specified backend {shorten(value)!r} is not supported! Supported: tune")
    return value


def _searcher(value: str | None) -> str | None:
    if value is not None and value not in SEARCHERS:
        raise ValueError(f"{shorten(value)!r} is not supported. {choose(value, SEARCHERS)[:-1]}")
    return value


def _scheduler(value: str) -> str:
    if value not in SCHEDULERS:
        raise ValueError(f"{shorten(value)!r} is not supported. {choose(value, SCHEDULERS)[:-1]}")
    return value


def _seconds(value: Any) -> Any:
    """Return seconds of a number, of digits, or of text such as `1h 30m`."""
    found = 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str):
        # A number alone counts seconds.
        tokens = [_TOKEN.fullmatch(token) for token in value.split()]
        found = sum(int(token[1]) * _UNITS[token[2] or "s"] for token in tokens if token) if all(tokens) else 0.0
    if not 0 < found <= _LONGEST:
        raise ValueError(
            "give seconds, or text such as '1h 30m' of whole numbers with s, m, h, d or w; above 0, up to a year, "
            f"not {shorten(repr(value))}"
        )
    return found


class SearchOrder(Order):
    """A search. `is_remote` and `use_annotation` are taken and have no effect.

    Attributes:
        search_space: run parameter → the values that it may take.
        metric: a figure of validations: the mean over the classes, where it has one for each, and over the
            participants, each of which counts the same.
        parameters: those of every trial that are not searched for.
        searcher: None for the search by Tree-structured Parzen Estimators.
        max_concurrent: a second bound of trials at the same time.
        max_exec_duration: seconds for all trials together, or text such as `1h 30m`.
        seed: makes the search repeatable as long as its trials end in the same order; drawn if it is missing.
    """

    search_space: Annotated[dict[str, Range], Field(min_length=1, max_length=100)]
    metric: str
    optimize_mode: Mode
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    backend: Annotated[str, AfterValidator(_backend)] = "tune"
    scheduler: Annotated[str, AfterValidator(_scheduler)] = "AsyncHyperBandScheduler"
    searcher: Annotated[str | None, AfterValidator(_searcher)] = None
    trial_concurrency: Annotated[Count, Field(le=100)] = 1
    max_concurrent: Count | None = None
    max_exec_duration: Annotated[float, BeforeValidator(_seconds)] = 3600.0
    max_trial_num: Annotated[Count, Field(le=1000)] = 10
    is_remote: bool = True
    use_annotation: bool = True
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] | None = None

    @property
    def concurrency(self) -> int:
        """How many trials there are at the same time."""
        return min(self.trial_concurrency, self.max_concurrent or self.trial_concurrency)

    @property
    def sampler(self) -> Sampler:
        """What chooses values."""
        return SEARCHERS[self.searcher] if self.searcher else "tpe"

    @property
    def pruner(self) -> Pruner:
        """What ends trials early."""
        return SCHEDULERS[self.scheduler]

    @property
    def loss_sense(self) -> int:
        """1 if a lower loss goes with a lower metric, -1 if it goes with a higher one."""
        return -1 if any(known.get(self.metric) == "max" for known in METRICS.values()) else 1

    @property
    def rounds(self) -> int:
        """Rounds that a trial may take at most. Of an order that `settle` returned."""
        searched = self.search_space.get("rounds")
        return int(max(searched.examples()) if searched else self.parameters["rounds"])  # type: ignore[type-var,arg-type]

    def values(self, point: Mapping[str, float]) -> dict[str, Any]:
        """Return the searched run parameters at a point of the space, as they are stored; raises `Invalid`."""
        return _run_parameters("search_space", {name: self.search_space[name].at(each) for name, each in point.items()})

    def value(self, statistics: Sequence[Mapping[str, Any]]) -> float:
        """Return the metric of a trial, from the statistics of the participants; raises `Invalid` if it has none."""
        figures = [found[self.metric] for found in statistics if self.metric in found]
        means = [_mean(figure if isinstance(figure, list) else [figure]) for figure in figures]
        value = _mean(means)
        if not math.isfinite(value):
            raise Invalid(f"The validation has no {self.metric}: has any participant data to evaluate?")
        return value


def settle(order: SearchOrder, action: Action) -> SearchOrder:
    """Return an order that can be carried out for a project that does `action`, with what it left open.

    Raises:
        Invalid: no trial could run so; the message names the field.
    """
    # Not before it is needed: it loads torch.
    from synergos.federation.objectives import CRITERIONS, criterion_arguments
    from synergos.federation.parameters import Parameters

    def check(field: str, values: Mapping[str, Any]) -> None:
        try:
            Parameters.read(values)
        except Invalid as error:
            raise Invalid(f"{field}: {error.message}") from None

    if order.metric not in METRICS[action]:
        kind = "regression" if action == "regress" else "classification"
        raise Invalid(
            f"metric: {shorten(order.metric)!r} is no figure of {kind}. {choose(order.metric, METRICS[action])}"
        )
    if twice := order.search_space.keys() & order.parameters.keys():
        raise Invalid(f"parameters.{min(twice)}: it is searched for, so give it in search_space only.")
    fixed = _run_parameters("parameters", order.parameters)
    check("parameters", fixed)
    for name, searched in order.search_space.items():
        for value in searched.examples():
            check(f"search_space.{name}", {**fixed, **_run_parameters("search_space", {name: value})})
    if "rounds" not in order.search_space:
        fixed.setdefault("rounds", Parameters.model_fields["rounds"].default)
    changes: dict[str, Any] = {"parameters": fixed}
    if order.seed is None:
        changes["seed"] = random.SystemRandom().getrandbits(32)
    measures = {"criterion", "class_weights"}.union(*(criterion_arguments(name) for name in CRITERIONS))
    if measures & order.search_space.keys():
        # Losses that are measured in different ways say nothing about which trial is the better one.
        changes["scheduler"] = "FIFOScheduler"
    return order.model_copy(update=changes)


def _run_parameters(field: str, values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return RunChanges.model_validate(values).body()
    except ValidationError as error:
        raise Invalid(f"{field}.{describe(error.errors())}.") from None


def _mean(figures: Sequence[float | None]) -> float:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else math.nan
