"""A participant's rows as numbers, and their place in the layout that all participants of a project share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from synergos.errors import FeatureDrift, Invalid
from synergos.federation.sessions import Split
from synergos.jobs import Action, Layout, Meta
from synergos.logs import get_logger
from synergos.worker.labels import LABEL

# Name of the column for everything that has no name of its own in the shared layout.
BUCKET = "#other"

log = get_logger("worker.prepared")


class Header(BaseModel):
    """Names of one set's columns: features and labels."""

    X: list[str] = Field(default_factory=list)
    y: list[str] = Field(default_factory=list)


class Own(Header):
    """All names of one set, also those that do not leave the worker.

    Attributes:
        buckets: one-hot column → `<column>_#other`, where it counts if the layout does not know it.
    """

    buckets: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """What may leave the worker.

    Attributes:
        minimum_rows: a name or figure that fewer rows share stays here.
        X, y: names of features and labels that enough rows share, or that the orchestrator has sent itself.
    """

    minimum_rows: int
    X: frozenset[str]
    y: frozenset[str]


class Source(ABC):
    """One set (meta) as it was read from the participant's files.

    Attributes:
        action: what the labels are for.
        frame: what people may look at, indexed by `rows`; with `target` if any row has one.
        rows: where each row comes from: levels `file` (below the data folder) and `row` (counted from 0, without
            header and blank lines).
        labels: column names of `y`: `target`, or one `target_<class>` per class; empty if no row has a label.
        y: shape (rows, labels). A row without a label holds NaN (regress) or only zeros (classify).
        schema: column → dtype name.
    """

    action: Action
    frame: pd.DataFrame
    labels: list[str]
    y: NDArray[np.float64]
    schema: dict[str, str]

    @property
    def rows(self) -> pd.MultiIndex:
        """Return where each row comes from."""
        return self.frame.index

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return feature names that may have to be withheld → rows that have them."""

    @abstractmethod
    def own(self) -> Own:
        """Return all names, for this worker itself."""

    @abstractmethod
    def tell(self, told: Told, meta: Meta) -> tuple[list[str], dict[str, Any]]:
        """Return the feature names and the facts that may leave the worker."""

    @abstractmethod
    def store(self, path: Path) -> bool:
        """Write the features to `path`, an .npy file; False if `frame` says everything."""


class Prepared(ABC):
    """One set (meta) as it is read back: neither aligned nor scaled. `action`, `labels`, `y`, `rows`: see `Source`."""

    action: Action
    labels: list[str]
    y: NDArray[np.float64]
    rows: pd.MultiIndex

    @abstractmethod
    def place(self, names: list[str], layout: Layout, keep: NDArray[np.bool_], meta: Meta) -> NDArray[Any]:
        """Return the features of the rows in `keep`, as `sessions.Split.X` wants them.

        Args:
            names: aligned feature names.

        Raises:
            FeatureDrift: the layout has no place for something in the data.
            Invalid: a value does not fit.
        """


@dataclass(frozen=True)
class Aligned:
    """One set in the shared layout.

    Attributes:
        split: what training sees.
        truth: the label per row: regress float64 with NaN where there is none, classify int64 with -1 there.
        classes: class names in the order of the class indexes; empty for regress.
        rows: where each row comes from, as in `Source`.
    """

    split: Split
    truth: NDArray[np.float64] | NDArray[np.int64]
    classes: list[str]
    rows: pd.MultiIndex


def align(data: Prepared, layout: Layout, header: Header, meta: Meta) -> Aligned:
    """Bring `data` into the order, shape and scale of `layout`; what the participant lacks is 0.

    Rows of `train` and `evaluate` whose class was withheld and is not known to the layout are left out.

    Args:
        layout: what the participants agreed on; an empty one stands for the participant's own names.
        header: names of this set that left the worker.

    Raises:
        FeatureDrift: the layout lacks a column or class of the data.
        Invalid: a value does not fit float32, or no row is left.
    """
    every = np.ones(len(data.rows), dtype=bool)
    names = layout.X or header.X
    if data.action == "regress":
        if data.labels and layout.y and layout.y != data.labels:
            raise Invalid(f"The label is {data.labels}, but the project was aligned with {layout.y}: align again.")
        target = data.y[:, 0] if data.labels else np.full(len(data.rows), np.nan)
        values = None if np.isnan(target).any() else target.astype(np.float32).reshape(-1, 1)
        return Aligned(Split(data.place(names, layout, every, meta), values), target, [], data.rows)

    labels = layout.y or header.y
    if strange := [name for name in data.labels if name in header.y and name not in labels]:
        raise drift(meta, "classes", strange)
    truth: NDArray[np.int64] = np.full(len(data.rows), -1)
    for column, name in enumerate(data.labels):
        if name in labels:
            truth[data.y[:, column] > 0] = labels.index(name)
    keep = every if meta == "predict" else truth >= 0
    if not keep.all():
        log.warning("rows of classes that few rows share are left out", meta=meta, rows=int((~keep).sum()))
    if not keep.any():
        raise Invalid(f"No row of the {meta} set has a class that the project knows ({', '.join(labels)}).")
    kept: NDArray[np.int64] = truth[keep]
    targets = _targets(kept, len(labels)) if (kept >= 0).all() else None
    classes = [name.removeprefix(f"{LABEL}_") for name in labels]
    return Aligned(Split(data.place(names, layout, keep, meta), targets), kept, classes, data.rows[keep])


def drift(meta: Meta, kind: str, names: Sequence[str]) -> FeatureDrift:
    """Return the error for columns or classes that the layout does not know."""
    return FeatureDrift(
        f"Feature drift detected! The {meta} set has {kind} that the aligned model does not know: "
        f"{', '.join(names)}. Align and train again, or correct the data."
    )


def _targets(truth: NDArray[np.int64], classes: int) -> NDArray[np.float32] | NDArray[np.int64]:
    return truth.astype(np.float32).reshape(-1, 1) if classes <= 2 else truth
