"""Labels: from cells of a `target` column to numbers, and the names of classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synergos.errors import Invalid
from synergos.jobs import Action, Meta
from synergos.logs import get_logger

LABEL = "target"

log = get_logger("worker.labels")


def read(cells: pd.Series[Any], action: Action, name: str) -> pd.Series[Any]:
    """Return labels that were read as text: classes as text or regression values as float64, NaN where a cell is empty.

    Args:
        cells: stripped text, indexed by row.
        name: what messages call the file.

    Raises:
        Invalid: regression, and a cell is no finite number.
    """
    filled = cells.where(cells != "")
    if action == "classify":
        return plain(filled)
    numbers = pd.to_numeric(filled, errors="coerce").astype(np.float64)
    numbers = numbers.where(np.isfinite(numbers))
    if (wrong := filled.notna() & numbers.isna()).any():
        raise Invalid(
            f"{name}: the label in row {cells.index[wrong.to_numpy()][0]} (counted from 0) is not a number, "
            "but regress needs numbers."
        )
    return numbers


def plain(text: pd.Series[Any]) -> pd.Series[Any]:
    """Give a level one name, whether it was written from an integer or, next to an empty cell, from a float."""
    return text.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def drop_unlabelled(frame: pd.DataFrame, meta: Meta, folders: str) -> tuple[pd.DataFrame, int]:
    """Leave rows without a label out of `train` and `evaluate`; returns the rest and how many were left out.

    A `predict` set keeps all rows, and loses the column if no row has a label.

    Raises:
        Invalid: no row of a train or evaluate set has a label.
    """
    if LABEL not in frame or frame[LABEL].isna().all():
        if meta != "predict":
            raise Invalid(f"No row of the {meta} set ({folders}) has a usable label in {LABEL!r}.")
        return frame.drop(columns=LABEL, errors="ignore"), 0
    if meta == "predict":
        return frame, 0
    labelled = frame[LABEL].notna()
    dropped = int((~labelled).sum())
    if dropped:
        log.warning("rows without a label are left out", meta=meta, rows=dropped)
    return frame[labelled], dropped


def encode(frame: pd.DataFrame, action: Action) -> tuple[NDArray[np.float64], list[str]]:
    """Return labels as numbers, shape (rows, names), and their names; no names without a `target` column.

    A row without a label is NaN for regression and all zeros for classification.
    """
    if LABEL not in frame:
        return np.zeros((len(frame), 0)), []
    target = frame[LABEL]
    if action == "regress":
        return target.to_numpy(dtype=np.float64).reshape(-1, 1), [LABEL]
    text = target if target.dtype == object else target.map("{:.0f}".format, na_action="ignore")
    classes = order(text.dropna().unique())
    return np.column_stack([text == each for each in classes]).astype(np.float64), [f"{LABEL}_{c}" for c in classes]


def order(values: Iterable[Any]) -> list[str]:
    """Sort by number if every value is one, else by text."""
    texts = [str(value) for value in values]
    try:
        return sorted(texts, key=lambda value: (float(value), value))
    except ValueError:
        return sorted(texts)
