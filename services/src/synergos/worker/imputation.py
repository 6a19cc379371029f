"""Fills empty cells, learning from the training rows only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

# One boosted tree per level and iteration: beyond this the most frequent level has to do.
_MAX_LEVELS = 32
# What the histograms can hold as categories.
_MAX_CODES = 255
_SETTINGS: dict[str, Any] = {"max_iter": 50, "early_stopping": False, "random_state": 42}


class Imputer:
    """Predicts a missing cell from the other cells of its row, with one gradient boosting model per column.

    The models are fitted when they are first needed, always on the rows given here, so that the training set decides
    how the sets for evaluation and prediction are completed.

    Args:
        train: feature columns; numbers as float64 with NaN, categories as `category` of text.
        whole: columns whose numbers are whole.
    """

    def __init__(self, train: pd.DataFrame, whole: set[str]) -> None:
        self._train = train
        self._whole = whole
        self._levels = {
            name: sorted(train[name].dropna().unique()) for name in train if train[name].dtype.name == "category"
        }
        self._models: dict[str, Any] = {}

    def fill(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return `frame` without empty cells. A column that the training rows lack is completed from itself."""
        filled = frame.copy()
        for name in frame.columns[frame.isna().any()]:
            gaps = frame[name].isna().to_numpy()
            if name in self._train and self._train[name].notna().any():
                values = self._predict(name, frame[gaps])
            else:
                values = _typical(frame[name])
            if name in self._whole:
                values = np.round(values)
            column = filled[name]
            if column.dtype.name == "category":
                column = column.cat.set_categories(sorted({*column.cat.categories, *np.atleast_1d(values)}))
            column = column.copy()
            column[gaps] = values
            filled[name] = column
        return filled

    def _predict(self, name: str, rows: pd.DataFrame) -> Any:
        if name not in self._models:
            self._models[name] = self._fit(name)
        model = self._models[name]
        return model.predict(self._encode(rows, name)) if hasattr(model, "predict") else model

    def _fit(self, name: str) -> Any:
        known = self._train[self._train[name].notna()]
        column = known[name]
        levels = self._levels.get(name)
        constant = column.nunique() == 1
        if constant or len(self._predictors(name)) == 0 or (levels is not None and len(levels) > _MAX_LEVELS):
            return _typical(column)
        mask = [other in self._levels for other in self._predictors(name)]
        model = (HistGradientBoostingRegressor if levels is None else HistGradientBoostingClassifier)(
            categorical_features=mask, **_SETTINGS
        )
        return model.fit(self._encode(known, name), column.to_numpy())

    def _predictors(self, name: str) -> list[str]:
        return [
            other
            for other in self._train
            if other != name
            and self._train[other].notna().any()
            and not (other in self._levels and len(self._levels[other]) >= _MAX_CODES)
        ]

    def _encode(self, frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
        columns = []
        for other in self._predictors(name):
            if other not in frame:
                columns.append(np.full(len(frame), np.nan))
            elif other in self._levels:
                code = {level: index for index, level in enumerate(self._levels[other])}
                columns.append(frame[other].astype(object).map(code).to_numpy(dtype=np.float64))
            else:
                columns.append(frame[other].to_numpy(dtype=np.float64))
        return np.column_stack(columns)


def _typical(column: pd.Series[Any]) -> Any:
    return column.median() if column.dtype.name != "category" else column.mode().iloc[0]
