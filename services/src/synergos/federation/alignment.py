"""What the participants of a project agree on: one order of columns and classes, one scaling, models that fit.

Everything here is a pure function of what the workers answer to a poll (see `Poll`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synergos.errors import FeatureDrift, GridFailure, Invalid
from synergos.jobs import METAS, Action, Alignment, Datatype, Layout, Spacers

LABEL = "target"
# The name of what has no name of its own: unknown words; `<column>_#other` for levels of a category.
OTHER = "#other"
# Planes of an image by Pillow's mode.
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
T = TypeVar("T", bound=str)


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
    """What a worker tells about one set beside its names.

    Attributes:
        datatype: kind of data.
        features: tables only: facts about the columns.
        classes: label name → rows, for the classes that may be told.
        pixel_height, pixel_width: images only: largest height and width in the set.
        color: images only: Pillow's mode.
    """

    datatype: Datatype = Field("tabular", alias="_type")
    features: Variables = Field(default_factory=Variables)
    classes: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    pixel_height: int = Field(0, ge=0)
    pixel_width: int = Field(0, ge=0)
    color: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.datatype == "image" and (self.color not in CHANNELS or not self.pixel_height or not self.pixel_width):
            raise ValueError(f"a set of images needs pixel_height, pixel_width and a color of {', '.join(CHANNELS)}")
        return self


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

    def category(self, name: str) -> str | None:
        """Return the category column that the feature `name` is a level of, if it is one."""
        columns = {column for meta in METAS for column in self.variables(meta).cat_variables}
        return max((column for column in columns if name.startswith(f"{column}_")), key=len, default=None)


def union(headers: Iterable[Sequence[str]]) -> list[str]:
    """Return all feature names once, sorted."""
    return sorted({name for header in headers for name in header})


def union_words(headers: Iterable[Sequence[str]]) -> list[str]:
    """Return the bucket of unknown words, then all words once, sorted."""
    return [OTHER, *(word for word in union(headers) if word != OTHER)]


def union_labels(headers: Iterable[Sequence[str]]) -> list[str]:
    """Return all label names once: by class value if every class is a number, else by text."""
    names = union(headers)
    try:
        return sorted(names, key=lambda name: (float(name.removeprefix(f"{LABEL}_")), name))
    except ValueError:
        return names


def spacers(own: Iterable[str], names: Sequence[str]) -> list[int]:
    """Return the positions in `names` that `own` lacks; nothing for an empty `own` (a set without such columns)."""
    present = set(own)
    return [index for index, name in enumerate(names) if name not in present] if present else []


def pixel_spacers(height: int, width: int, shape: Sequence[int]) -> list[int]:
    """Return the pixels that an image of `height` x `width` lacks in `shape` (channels, height, width).

    Pixel (row, column) has the position row * width + column of the plane that every channel has; an image lies in the
    upper left corner, and what it lacks at the right and at the bottom is 0.
    """
    _, rows, columns = shape
    return [row * columns + column for row in range(rows) for column in range(width if row < height else 0, columns)]


def place(poll: Poll, layout: Layout) -> Alignment:
    """Return where the participant of `poll` needs spacers: an inserted zero column, or zero pixel, per position.

    Category levels and words that the layout does not know count as their bucket, where the layout has one.

    Raises `FeatureDrift` for columns, classes, images or kinds of data outside the layout.
    """
    result: dict[str, Spacers] = {}
    for meta in METAS:
        header = poll.headers.get(meta, Header())
        if strange := [name for name in header.y if name not in set(layout.y)]:
            raise _drift(meta, "classes", strange)
        facts = poll.metadata.get(meta)
        if facts is not None and facts.datatype != layout.datatype:
            raise FeatureDrift(
                f"Feature drift detected! The {meta} set is of kind {facts.datatype}; the model was aligned for "
                f"{layout.datatype}. Give sets of that kind."
            )
        if layout.datatype == "image":
            X = _place_image(meta, facts, layout) if facts else []
        else:
            X = spacers(_fold(poll, meta, header.X, layout), layout.X)
        result[meta] = Spacers(X=X, y=spacers(header.y, layout.y))
    return Alignment(**result, layout=layout)


def agree(polls: Mapping[str, Poll]) -> Layout:
    """Return the layout that all participants share. Raises `Invalid` if their data contradict each other."""
    datatype = _same("kind of data", polls, lambda facts: facts.datatype) or "tabular"
    headers = [header for poll in polls.values() for meta, header in poll.headers.items() if meta in METAS]
    labels = union_labels(header.y for header in headers)
    if len(labels) == 1 and labels[0].startswith(f"{LABEL}_"):
        raise Invalid(
            f"Only one class can be told from the labels: {labels[0].removeprefix(f'{LABEL}_')}. A classification "
            "needs two or more classes, each with enough rows at one participant to be named."
        )
    layout = Layout(datatype=datatype, y=labels, counts=_count(polls, labels))
    names = [header.X for header in headers]
    if datatype == "image":
        color = _same("colour", polls, lambda facts: facts.color)
        sets = [facts for poll in polls.values() for meta, facts in poll.metadata.items() if meta in METAS]
        height, width = max(facts.pixel_height for facts in sets), max(facts.pixel_width for facts in sets)
        layout.shape = [CHANNELS[str(color)], height, width]
    elif datatype == "text":
        layout.X = union_words(names)
    else:
        _check_kinds(polls)
        layout.X = union(names)
        layout.scaling = pool(layout.X, [poll.moments() for poll in polls.values()])
    return layout


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
    for participant_id, poll in polls.items():
        for meta in METAS:
            own = poll.variables(meta).num_variables
            for name in poll.headers.get(meta, Header()).X:
                if name in numeric and name not in own and (owner := poll.category(name)):
                    raise Invalid(
                        f"{name!r} is a numeric column at {numeric[name]} and a level of the category {owner!r} at "
                        f"{participant_id} ({meta}): rename one of the two columns."
                    )


def _same(what: str, polls: Mapping[str, Poll], fact: Callable[[Facts], T]) -> T | None:
    """Return the fact that all sets of all participants share; None without sets."""
    seen: dict[T, str] = {}
    for participant_id, poll in polls.items():
        for meta in METAS:
            if meta in poll.metadata:
                seen.setdefault(fact(poll.metadata[meta]), f"{participant_id} ({meta})")
    if len(seen) > 1:
        who = ", ".join(f"{value} at {where}" for value, where in seen.items())
        raise Invalid(f"All sets of a project need the same {what}; here it is {who}.")
    return next(iter(seen), None)


def _count(polls: Mapping[str, Poll], labels: Sequence[str]) -> dict[str, int]:
    told = [poll.metadata["train"].classes for poll in polls.values() if "train" in poll.metadata]
    return {name: sum(counts.get(name, 0) for counts in told) for name in labels if any(name in c for c in told)}


def _fold(poll: Poll, meta: str, own: Sequence[str], layout: Layout) -> set[str]:
    """Return the layout's names for a set's features; raises `FeatureDrift`."""
    known, folded, strange = set(layout.X), set(), []
    for name in own:
        if name in known:
            folded.add(name)
            continue
        column = poll.category(name)
        bucket = OTHER if layout.datatype == "text" else f"{column}_{OTHER}"
        if bucket in known:
            folded.add(bucket)
        else:
            strange.append(f"{name} (a level of {column})" if column else name)
    if strange:
        raise _drift(meta, "columns", strange)
    return folded


def _place_image(meta: str, facts: Facts, layout: Layout) -> list[int]:
    channels, height, width = layout.shape
    if CHANNELS[facts.color] != channels:
        color = next(mode for mode, planes in CHANNELS.items() if planes == channels)
        raise FeatureDrift(
            f"Feature drift detected! The {meta} set has images of colour {facts.color}; the model was aligned for "
            f"{color}. Convert the images."
        )
    if facts.pixel_height > height or facts.pixel_width > width:
        raise FeatureDrift(
            f"Feature drift detected! The {meta} set has images up to {facts.pixel_height} x {facts.pixel_width} "
            f"pixels (height x width); the model was aligned for {height} x {width}. Align and train again, or make "
            "the images smaller."
        )
    return pixel_spacers(facts.pixel_height, facts.pixel_width, layout.shape)


def _drift(meta: str, kind: str, strange: Sequence[str]) -> FeatureDrift:
    return FeatureDrift(
        f"Feature drift detected! The {meta} set has {kind} that the aligned model does not know: "
        f"{', '.join(strange)}. Align and train again, or correct the data."
    )


def fit_model(model: list[dict[str, Any]], layout: Layout, action: Action) -> list[dict[str, Any]]:
    """Return `model` with the sizes that `layout` asks for, found by a dry run over one row's shape.

    Every layer takes what the layer before it gives (`in_features`, `in_channels`, `num_features`, …). The last layer
    with outputs of its own gives one for regression and for up to two classes, else one per class with softmax; softmax
    over a single output, which is always 1, becomes sigmoid (regression: no activation). The outputs of the layers
    before it are the user's choice and stay.

    What cannot be fitted is left alone: `layers.probe` then refuses the model and names the layer.
    """
    from synergos.federation import layers  # here, because it brings torch

    outputs = 1 if action == "regress" or len(layout.y) <= 2 else len(layout.y)
    fixed = layers.resize(model, layout.row_shape, outputs)
    if outputs > 1:
        layers.close_with(fixed, "softmax")
    elif layers.closing(fixed) in layers.OVER_CLASSES:
        layers.close_with(fixed, "" if action == "regress" else "sigmoid")
    return fixed
