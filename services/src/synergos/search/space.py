"""The grammar of a search space: `{"<run parameter>": {"_type": <distribution>, "_value": [...]}}`."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from synergos.orchestrator.schemas import Payload

Distribution = Literal["choice", "grid_search", "uniform", "quniform", "loguniform", "qloguniform", "randint", "randn"]
# What `_value` holds, for those that are not just lists of values.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "uniform": ("lower", "upper"),
    "quniform": ("lower", "upper", "q"),
    "loguniform": ("lower", "upper"),
    "qloguniform": ("lower", "upper", "q"),
    "randint": ("lower", "upper"),
    "randn": ("mean", "sd"),
}
# Share of a normal distribution that is left out at each end.
TAIL = 1e-6
# Of a quotient of two numbers that are no binary fractions.
_SLACK = 1e-9


class Range(Payload):
    """The values that a run parameter may take.

    A point is what stands for a value in a study: the index of a choice, the number of steps `q`, the quantile of a
    normal distribution, else the value itself.

    Attributes:
        kind: `choice` and `grid_search`: one of the list, the latter each of them in turn; `uniform`, `loguniform`:
            from lower to upper; `quniform`, `qloguniform`: the multiples of q among these; `randint`: whole numbers
            from lower to below upper; `randn`: normal with mean and standard deviation.
    """

    kind: Distribution = Field(alias="_type")
    value: list[JsonValue] = Field(alias="_value", min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.listed:
            return self
        names, numbers = _ARGUMENTS[self.kind], self.value
        wanted = f"{self.kind} takes [{', '.join(names)}]"
        if len(numbers) != len(names) or not all(_is_number(each) for each in numbers):
            raise ValueError(f"{wanted}, numbers, not {numbers!r}")
        if self.kind == "randn":
            if self._numbers[1] <= 0:
                raise ValueError(f"{wanted} with sd above 0")
            return self
        lower, upper, *step = self._numbers
        if lower >= upper:
            raise ValueError(f"{wanted} with lower below upper")
        if "log" in self.kind and lower <= 0:
            raise ValueError(f"{wanted} with lower above 0")
        if self.kind == "randint" and not (lower.is_integer() and upper.is_integer()):
            raise ValueError(f"{wanted}, whole numbers")
        if step and step[0] <= 0:
            raise ValueError(f"{wanted} with q above 0")
        if step and self.steps[0] > self.steps[1]:
            raise ValueError(f"{wanted}, and there is no multiple of {step[0]:g} from {lower:g} to {upper:g}")
        return self

    @property
    def listed(self) -> bool:
        """Whether `value` lists the values."""
        return self.kind in ("choice", "grid_search")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest point of a distribution of real numbers."""
        return (TAIL, 1 - TAIL) if self.kind == "randn" else (self._numbers[0], self._numbers[1])

    @property
    def steps(self) -> tuple[int, int]:
        """Lowest and highest point of a distribution of whole numbers or of multiples."""
        lower, upper, *rest = self._numbers
        if self.kind == "randint":
            return int(lower), int(upper) - 1
        return math.ceil(lower / rest[0] - _SLACK), math.floor(upper / rest[0] + _SLACK)

    def at(self, point: float) -> Any:
        """Return the value at a point."""
        if self.listed:
            return self.value[int(point)]
        if self.kind == "randn":
            return NormalDist(*self._numbers).inv_cdf(point)
        if self.kind in ("quniform", "qloguniform"):
            # The product has digits that nobody gave.
            return float(f"{point * self._numbers[2]:.12g}")
        return point

    def examples(self) -> list[Any]:
        """Return all values of a list, else the ends and something between."""
        if self.listed:
            return list(self.value)
        if self.kind in ("randint", "quniform", "qloguniform"):
            lower, upper = self.steps
            return [self.at(point) for point in (lower, min(lower + 1, upper), upper)]
        if self.kind == "randn":
            return [self.at(0.5), self.at(0.4)]
        low, high = self.bounds
        return [low, low + 0.4 * (high - low), high]

    @property
    def _numbers(self) -> list[float]:
        return [float(each) for each in self.value]  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
