"""Fills empty cells, learning from the training rows only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.impute import KNNImputer

# Rows that neighbours are looked for in: the time grows with (rows with gaps) x (these).
_DONORS = 2000
_NEIGHBOURS = 5
# MiB that the distances may take at a time; scikit-learn takes 1024.
_MEMORY = 64


class Imputer:
    """Completes rows from the training rows nearest to them: a number by their mean, a category by their majority.

    Distances are Euclidean over the cells that both rows have, numbers standardised and categories one-hot.

    Args:
        train: feature columns; numbers as float64 with NaN, categories as `category` of text. Every column holds
            something.
        whole: columns whose numbers are whole.
    """

    def __init__(self, train: pd.DataFrame, whole: set[str]) -> None:
        self._train = train
        self._whole = whole
        self._levels: dict[str, list[str]] = {}
        self._scaling: dict[str, tuple[float, float]] = {}
        for name in train:
            if train[name].dtype.name == "category":
                self._levels[name] = sorted(train[name].dropna().unique())
            else:
                self._scaling[name] = (train[name].mean(), train[name].std(ddof=0) or 1.0)
        self._model: KNNImputer | None = None

    def fill(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return `frame` without empty cells. A column that the training rows lack is completed from itself."""
        gaps = frame.isna()
        open_rows = gaps.any(axis=1).to_numpy()
        guesses = self._guess(frame[open_rows])
        filled = frame.copy()
        for name in frame.columns[gaps.any()]:
            own = gaps[name].to_numpy()
            values = guesses[name][own[open_rows]] if name in guesses else _typical(frame[name])
            if name in self._whole:
                values = np.round(values)
            column = filled[name].copy()
            if column.dtype.name == "category":
                column = column.cat.set_categories(sorted({*column.cat.categories, *np.atleast_1d(values)}))
            column[own] = values
            filled[name] = column
        return filled

    def _guess(self, rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
        """Return every column of the training rows, completed for `rows`."""
        # An idle worker does without scikit-learn and its 65 MiB.
        from sklearn import config_context
        from sklearn.impute import KNNImputer

        if self._model is None:
            step = -(-len(self._train) // _DONORS)
            self._model = KNNImputer(n_neighbors=_NEIGHBOURS, keep_empty_features=True)
            self._model.fit(self._encode(self._train[::step]))
        with config_context(working_memory=_MEMORY):
            numbers = self._model.transform(self._encode(rows))
        guesses: dict[str, NDArray[Any]] = {}
        start = 0
        for name in self._train:
            if name in self._levels:
                end = start + len(self._levels[name])
                guesses[name] = np.array(self._levels[name], dtype=object)[numbers[:, start:end].argmax(axis=1)]
            else:
                end = start + 1
                mean, deviation = self._scaling[name]
                guesses[name] = numbers[:, start] * deviation + mean
            start = end
        return guesses

    def _encode(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        columns = []
        for name in self._train:
            cells = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
            if name in self._levels:
                text = cells.astype(object).to_numpy()
                onehot = np.column_stack([text == level for level in self._levels[name]]).astype(np.float64)
                onehot[cells.isna().to_numpy()] = np.nan
                columns.append(onehot)
            else:
                mean, deviation = self._scaling[name]
                columns.append(((cells.to_numpy(dtype=np.float64) - mean) / deviation).reshape(-1, 1))
        return np.hstack(columns)


def _typical(column: pd.Series[Any]) -> Any:
    return column.median() if column.dtype.name != "category" else column.mode().iloc[0]
