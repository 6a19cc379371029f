"""What the participants of a project agree on: one order of columns and classes, one scaling, models that fit.

Everything here is a pure function of what the workers answer to a poll (see `Poll`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synergos.errors import FeatureDrift, GridFailure, Invalid
from synergos.jobs import METAS, Action, Alignment, Layout, Spacers

LABEL = "target"


class Header(BaseModel):
    """Column names of one set, in the worker's order: features, and labels (none for unlabelled rows)."""

    X: list[str] = Field(default_factory=list)
    y: list[str] = Field(default_factory=list)


class Moments(BaseModel):
    """Row count, mean and population standard deviation of one numeric column."""

    model_config = ConfigDict(allow_inf_nan=False)

    count: int = Field(ge=0)
    mean: float
    std: float = Field(ge=0)


class Variables(BaseModel):
    """Facts about the columns of a set, by their kind."""

    cat_variables: dict[str, Any] = Field(default_factory=dict)
    num_variables: dict[str, Any] = Field(default_factory=dict)


class Facts(BaseModel):
    """What a worker tells about one set beside its names."""

    features: Variables = Field(default_factory=Variables)


class Poll(BaseModel):
    """What a worker tells about its data sets.

    Attributes:
        headers: meta → names.
        metadata: meta → facts.
    """

    headers: dict[str, Header]
    metadata: dict[str, Facts] = Field(default_factory=dict)

    @classmethod
    def read(cls, participant_id: str, data: Any) -> Poll:
        """Return the checked reply; raises `GridFailure` naming the participant."""
        try:
            poll = cls.model_validate(data)
            poll.moments()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise GridFailure(f"{participant_id} gave an unusable poll reply: {where}: {first['msg']}.") from None
        return poll

    def variables(self, meta: str) -> Variables:
        """Return the facts about the columns of one set."""
        return self.metadata[meta].features if meta in self.metadata else Variables()

    def moments(self) -> dict[str, Moments]:
        """Return the figures of the training set's numeric columns."""
        numeric = self.variables("train").num_variables
        return {column: Moments.model_validate(facts) for column, facts in numeric.items()}


def union(headers: Iterable[Sequence[str]]) -> list[str]:
    """Return all feature names once, sorted."""
    return sorted({name for header in headers for name in header})


def union_labels(headers: Iterable[Sequence[str]]) -> list[str]:
    """Return all label names once: by class value if every class is a number, else by text."""
    names = union(headers)
    try:
        return sorted(names, key=lambda name: (float(name.removeprefix(f"{LABEL}_")), name))
    except ValueError:
        return names


def spacers(own: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the positions in `names` that `own` lacks; nothing for an empty `own` (a set without such columns)."""
    if not own:
        return []
    present = set(own)
    return [index for index, name in enumerate(names) if name not in present]


def place(poll: Poll, layout: Layout) -> Alignment:
    """Return where the participant of `poll` needs spacers. Raises `FeatureDrift` for names outside the layout."""
    known = {"X": set(layout.X), "y": set(layout.y)}
    result: dict[str, Spacers] = {}
    for meta in METAS:
        header = poll.headers.get(meta, Header())
        for side, own in (("X", header.X), ("y", header.y)):
            if strange := [name for name in own if name not in known[side]]:
                kind = "columns" if side == "X" else "classes"
                raise FeatureDrift(
                    f"Feature drift detected! The {meta} set has {kind} that the aligned model does not know: "
                    f"{', '.join(strange)}. Align and train again, or correct the data."
                )
        result[meta] = Spacers(X=spacers(header.X, layout.X), y=spacers(header.y, layout.y))
    return Alignment(**result, layout=layout)


def agree(polls: Mapping[str, Poll]) -> Layout:
    """Return the layout that all participants share. Raises `Invalid` if their columns contradict each other."""
    _check_kinds(polls)
    headers = [header for poll in polls.values() for meta, header in poll.headers.items() if meta in METAS]
    features = union(header.X for header in headers)
    return Layout(
        X=features,
        y=union_labels(header.y for header in headers),
        scaling=pool(features, [poll.moments() for poll in polls.values()]),
    )


def pool(features: Iterable[str], columns: Sequence[Mapping[str, Moments]]) -> dict[str, tuple[float, float]]:
    """Return (mean, standard deviation) of each numeric feature over all participants' rows together.

    A column that never varies gets the deviation 1, so that it becomes 0 and stays finite.
    """
    scaling: dict[str, tuple[float, float]] = {}
    for feature in features:
        parts = [moments[feature] for moments in columns if feature in moments]
        rows = sum(part.count for part in parts)
        if rows == 0:
            continue
        mean = sum(part.count * part.mean for part in parts) / rows
        variance = sum(part.count * (part.std**2 + (part.mean - mean) ** 2) for part in parts) / rows
        deviation = math.sqrt(variance)
        # Rounding leaves a tiny deviation on a constant column whose value is large.
        constant = deviation <= 1e-12 * max(1.0, abs(mean))
        scaling[feature] = (mean, 1.0 if constant else deviation)
    return scaling


def _check_kinds(polls: Mapping[str, Poll]) -> None:
    numeric: dict[str, str] = {}
    category: dict[str, str] = {}
    for participant_id, poll in polls.items():
        for meta in METAS:
            variables = poll.variables(meta)
            for columns, seen in ((variables.num_variables, numeric), (variables.cat_variables, category)):
                for column in columns:
                    seen.setdefault(column, f"{participant_id} ({meta})")
    if both := sorted(numeric.keys() & category.keys()):
        column = both[0]
        raise Invalid(
            f"Column {column!r} is numeric at {numeric[column]} and a category at {category[column]}: "
            "all participants' schema.json must give it the same kind."
        )


# Layers that keep the width of a table row, with the argument that states it.
_WIDTH = {"BatchNorm1d": "num_features", "LayerNorm": "normalized_shape", "RMSNorm": "normalized_shape"}
_NEUTRAL = frozenset({"Flatten", "Identity", "Dropout", "AlphaDropout", "FeatureAlphaDropout"})
_MODULE_OF = {"softmax": "Softmax", "sigmoid": "Sigmoid"}


def fit_model(model: list[dict[str, Any]], layout: Layout, action: Action) -> list[dict[str, Any]]:
    """Return `model` with the input and output sizes that `layout` asks for; layers in between are left alone.

    The first layers take as many features as there are (convolutions, which have channels, are skipped). The last
    Linear layer gives one output for regression and up to two classes, else one output per class with softmax;
    softmax over a single output, which is always 1, becomes sigmoid (regression: no activation).
    """
    fixed = copy.deepcopy(model)
    for layer in fixed:
        layer["structure"] = dict(layer.get("structure") or {})
    for layer in fixed:
        if layer["l_type"] == "Linear":
            layer["structure"]["in_features"] = len(layout.X)
            break
        if layer["l_type"] in _WIDTH:
            layer["structure"][_WIDTH[layer["l_type"]]] = len(layout.X)
        elif layer["l_type"] not in _NEUTRAL:
            break
    last = max((index for index, layer in enumerate(fixed) if layer["l_type"] == "Linear"), default=None)
    if last is None or any(_sized(layer) for layer in fixed[last + 1 :]):
        return fixed
    outputs = 1 if action == "regress" or len(layout.y) <= 2 else len(layout.y)
    fixed[last]["structure"]["out_features"] = outputs
    if outputs > 1:
        _activate(fixed[-1], "softmax")
    elif _activation(fixed[-1]) == "softmax":
        _activate(fixed[-1], "" if action == "regress" else "sigmoid")
    return fixed


def _sized(layer: Mapping[str, Any]) -> bool:
    return layer["l_type"] not in _NEUTRAL and layer["l_type"] not in _MODULE_OF.values() and bool(layer["structure"])


def _activation(layer: Mapping[str, Any]) -> str:
    names = {module: name for name, module in _MODULE_OF.items()}
    return str(names.get(layer["l_type"]) or layer.get("activation") or "")


def _activate(layer: dict[str, Any], activation: str) -> None:
    if layer["l_type"] in _MODULE_OF.values():
        layer["l_type"] = _MODULE_OF.get(activation, "Identity")
        layer["structure"] = {"dim": 1} if activation == "softmax" else {}
    else:
        layer["activation"] = activation
