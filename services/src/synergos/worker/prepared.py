"""A participant's rows as numbers, and their place in the layout that all participants of a project share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synergos.errors import Invalid
from synergos.federation.sessions import Split
from synergos.jobs import Action, Layout, Spacers

LABEL = "target"


@dataclass(frozen=True)
class Prepared:
    """One set (meta) as numbers, neither aligned nor scaled.

    Attributes:
        action: what the labels are for.
        features: column names of `X`.
        labels: column names of `y`: `target`, or one `target_<class>` per class; empty if no row has a label.
        X: shape (rows, features).
        y: shape (rows, labels). A row without a label holds NaN (regress) or only zeros (classify).
        rows: where each row comes from: levels `file` (below the data folder) and `row` (counted from 0, without
            header and blank lines).
    """

    action: Action
    features: list[str]
    labels: list[str]
    X: NDArray[np.float64]
    y: NDArray[np.float64]
    rows: pd.MultiIndex


@dataclass(frozen=True)
class Aligned:
    """One set in the shared layout.

    Attributes:
        split: what training sees.
        truth: the label per row: regress float64 with NaN where there is none, classify int64 with -1 there.
        classes: class names in the order of the class indexes; empty for regress.
        rows: as in `Prepared`.
    """

    split: Split
    truth: NDArray[np.float64] | NDArray[np.int64]
    classes: list[str]
    rows: pd.MultiIndex


def align(data: Prepared, layout: Layout, spacers: Spacers | None = None) -> Aligned:
    """Scale `data` and put its columns where `layout` wants them; columns that it lacks are 0.

    Args:
        layout: shared names and scaling. Without names the columns are placed by `spacers` alone.
        spacers: where this participant has no column of its own; has to agree with the names if both are given.

    Raises:
        Invalid: names, spacers and columns contradict each other, or a value does not fit float32.
    """
    X = data.X.copy()
    for column, name in enumerate(data.features):
        if name in layout.scaling:
            mean, deviation = layout.scaling[name]
            X[:, column] = (X[:, column] - mean) / deviation
    features = _names(data.features, layout.X, spacers.X if spacers else None, "columns")
    with np.errstate(over="ignore"):
        placed = _spread(X, data.features, features).astype(np.float32)
    if not np.isfinite(placed).all():
        strange = features[int(np.flatnonzero(~np.isfinite(placed).all(axis=0))[0])]
        raise Invalid(f"Column {strange!r} holds values that are too large for training: rescale it.")

    if data.action == "regress":
        if data.labels and layout.y and layout.y != data.labels:
            raise Invalid(f"The label is {data.labels}, but the project was aligned with {layout.y}: align again.")
        target = data.y[:, 0] if data.labels else np.full(len(X), np.nan)
        complete = not np.isnan(target).any()
        y = target.astype(np.float32).reshape(-1, 1) if complete else None
        return Aligned(Split(placed, y), target, [], data.rows)

    labels = layout.y
    if data.labels or not labels:
        labels = _names(data.labels, layout.y, spacers.y if spacers else None, "classes")
    onehot = _spread(data.y, data.labels, labels)
    known = onehot.any(axis=1) if labels else np.zeros(len(X), dtype=bool)
    truth = np.where(known, onehot.argmax(axis=1), -1) if labels else np.full(len(X), -1)
    classes = [name.removeprefix(f"{LABEL}_") for name in labels]
    return Aligned(Split(placed, _targets(truth, len(labels)) if known.all() else None), truth, classes, data.rows)


def _targets(truth: NDArray[np.int64], classes: int) -> NDArray[np.float32] | NDArray[np.int64]:
    return truth.astype(np.float32).reshape(-1, 1) if classes <= 2 else truth


def _names(own: Sequence[str], names: Sequence[str], spacers: Sequence[int] | None, kind: str) -> list[str]:
    """Return the names of the aligned columns; a spacer whose name nobody sent gets the original's placeholder."""
    if not names:
        width = len(own) + len(spacers or ())
        gaps = set(spacers or ())
        if len(gaps) != len(spacers or ()) or not gaps <= set(range(width)):
            raise Invalid(
                f"The alignment inserts {kind} at {list(spacers or ())}, which does not fit {len(own)} own {kind}."
            )
        rest = iter(own)
        return [f"B_____#{index}" if index in gaps else next(rest) for index in range(width)]
    if strange := [name for name in own if name not in set(names)]:
        raise Invalid(
            f"These {kind} are not part of the project's alignment: {', '.join(strange)}. "
            "Align again, or correct the data."
        )
    present = set(own)
    if spacers is not None and list(spacers) != [index for index, name in enumerate(names) if name not in present]:
        raise Invalid(f"The alignment does not fit the {kind} of this participant's data any more: align again.")
    return list(names)


def _spread(values: NDArray[np.float64], own: Sequence[str], names: Sequence[str]) -> NDArray[np.float64]:
    place = {name: index for index, name in enumerate(names)}
    result = np.zeros((len(values), len(names)))
    result[:, [place[name] for name in own]] = values
    return result
