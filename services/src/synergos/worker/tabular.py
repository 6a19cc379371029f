"""Tables: csv files with a schema.json beside them, checked, completed and turned into numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from synergos.errors import Invalid
from synergos.jobs import Action, Layout, Meta
from synergos.logs import get_logger
from synergos.worker import files, labels
from synergos.worker.imputation import Imputer
from synergos.worker.labels import LABEL
from synergos.worker.prepared import BUCKET, Own, Prepared, Source, Told, drift

SCHEMA = "schema.json"
CATEGORY = "category"
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_FLOATS = {"float16", "float32", "float64"}
_MAX_LEVELS = 1000

log = get_logger("worker.tabular")


class Operations(BaseModel):
    """What metadata.json may ask for: settings of the original's imputer, accepted and without effect.

    Empty cells are completed from the nearest training rows, which needs neither a seed nor iterations.
    """

    model_config = ConfigDict(extra="forbid")

    seed: Any = None
    boost_iter: Any = None
    thread_count: Any = None


@dataclass(frozen=True)
class Table(Source):
    """The merged and completed rows of one set.

    Attributes:
        frame: before one-hot.
        features: column names of `X`.
        X: shape (rows, features).
        buckets: one-hot column → `<column>_#other`.
        filled: column → cells that were not empty.
    """

    action: Action
    frame: pd.DataFrame
    labels: list[str]
    y: NDArray[np.float64]
    schema: dict[str, str]
    features: list[str]
    X: NDArray[np.float64]
    buckets: dict[str, str]
    filled: dict[str, int]
    dropped: int

    def counts(self) -> dict[str, int]:
        """Return the rows of each level of a category."""
        rows = self.X.sum(axis=0)
        return {name: int(rows[column]) for column, name in enumerate(self.features) if name in self.buckets}

    def own(self) -> Own:
        """Return all column names."""
        return Own(X=self.features, y=self.labels, buckets=self.buckets)

    def tell(self, told: Told, meta: Meta) -> tuple[list[str], dict[str, Any]]:
        """Return column names, levels that enough rows share in buckets' stead, and the moments of numbers."""
        places = {
            name: name if name not in self.buckets or name in told.X else self.buckets[name] for name in self.features
        }
        categories: dict[str, Any] = {}
        numbers: dict[str, Any] = {}
        for column in sorted(self.filled):
            facts: dict[str, Any] = {"datatype": self.schema[column], "count": len(self.frame)}
            if self.schema[column] == CATEGORY:
                prefix = f"{column}_"
                own = {places[name] for name, bucket in self.buckets.items() if bucket == prefix + BUCKET}
                levels = labels.order(name.removeprefix(prefix) for name in own)
                categories[column] = {**facts, "labels": levels, "unique": len(levels)}
            else:
                values = self.frame[column]
                with np.errstate(over="ignore"):
                    moments = {"mean": float(values.mean()), "std": float(values.std(ddof=0))}
                if not np.isfinite(moments["std"]):
                    raise Invalid(f"Column {column!r} of the {meta} set holds values that are too large: rescale it.")
                enough = self.filled[column] >= told.minimum_rows
                numbers[column] = {**facts, **moments} if enough else facts
        return sorted(set(places.values())), {
            "features": {"cat_variables": categories, "num_variables": numbers, "misc_variables": {}},
            "dropped_count": self.dropped,
            "imputed_count": sum(len(self.frame) - count for count in self.filled.values()),
        }

    def store(self, path: Path) -> bool:
        """Write `X` to `path`."""
        np.save(path, self.X, allow_pickle=False)
        return True


@dataclass(frozen=True)
class Columns(Prepared):
    """A stored set. `features`, `X`, `buckets`: see `Table`."""

    action: Action
    labels: list[str]
    y: NDArray[np.float64]
    rows: pd.MultiIndex
    features: list[str]
    X: NDArray[np.float64]
    buckets: dict[str, str]

    def place(self, names: list[str], layout: Layout, keep: NDArray[np.bool_], meta: Meta) -> NDArray[np.float32]:
        """Return the columns in the order of `names`, scaled; a level without a name counts in its bucket."""
        places = {name: place for place, name in enumerate(names)}
        result = np.zeros((int(keep.sum()), len(names)), dtype=np.float32)
        strange: list[str] = []
        for column, name in enumerate(self.features):
            place = places.get(name, places.get(self.buckets.get(name, "")))
            if place is None:
                bucket = self.buckets.get(name)
                strange.append(bucket.removesuffix(f"_{BUCKET}") if bucket else name)
                continue
            mean, deviation = layout.scaling.get(name, (0.0, 1.0))
            with np.errstate(over="ignore"):
                result[:, place] += ((self.X[keep, column] - mean) / deviation).astype(np.float32)
        if strange:
            raise drift(meta, "columns", list(dict.fromkeys(strange)))
        if not np.isfinite(result).all():
            name = names[int(np.flatnonzero(~np.isfinite(result).all(axis=0))[0])]
            raise Invalid(
                f"Column {name!r} of the {meta} set holds values that are too large for training: rescale it."
            )
        return result


def load(
    root: Path, folders: Mapping[Meta, Sequence[Path]], action: Action, minimum_rows: int = 1
) -> dict[Meta, Source]:
    """Read and prepare every set.

    Empty cells are completed from the nearest training rows. Rows without a label are left out of `train` and
    `evaluate` and kept in `predict`; no other row is ever dropped. A column of the training set without any value, or
    with values in fewer than `minimum_rows` rows, is left out.

    Args:
        root: data folder of the participant.
        folders: data sets per meta, `train` among them.
        action: decides how the `target` column is read.

    Raises:
        Invalid: a data set that cannot be used; the message names file, column and what would be right.
    """
    raw = {meta: _Raw.read(root, each, action, meta) for meta, each in folders.items()}
    _check_kinds(raw)
    train = raw["train"].features(minimum_rows)
    if train.empty:
        raise Invalid("The train set has no feature column that holds anything.")
    whole = {name for each in raw.values() for name, dtype in each.schema.items() if dtype in _INTEGERS}
    imputer = Imputer(train, whole)
    return {meta: _prepare(each, imputer, train, action, meta) for meta, each in raw.items()}


@dataclass(frozen=True)
class _Raw:
    """The rows of one set as they were read: numbers as float64, categories as text, NaN where a cell is empty."""

    frame: pd.DataFrame
    schema: dict[str, str]
    dropped: int

    @classmethod
    def read(cls, root: Path, folders: Sequence[Path], action: Action, meta: Meta) -> _Raw:
        frames: list[pd.DataFrame] = []
        schema: dict[str, str] = {}
        for path in [path for folder in folders for path in files.csvs(root, folder)]:
            declared = _read_schema(root, path.with_name(SCHEMA), action, meta)
            frames.append(_read_table(root, path, declared, meta))
            for name, dtype in declared.items():
                schema[name] = _common(schema.get(name, dtype), dtype, name, files.shown(root, path.with_name(SCHEMA)))
        frame, dropped = labels.drop_unlabelled(pd.concat(frames), meta, _listed(root, folders))
        return cls(frame, {name: schema[name] for name in frame}, dropped)

    def features(self, minimum_rows: int = 1) -> pd.DataFrame:
        """Return the feature columns that hold anything in at least so many rows, or in all if there are fewer."""
        features = self.frame.drop(columns=LABEL, errors="ignore")
        minimum_rows = min(minimum_rows, len(features))
        features = features.loc[:, features.notna().sum() >= minimum_rows].copy()
        for name in features:
            if self.schema[name] == CATEGORY:
                features[name] = features[name].astype(CATEGORY)
        return features


def _read_schema(root: Path, path: Path, action: Action, meta: Meta) -> dict[str, str]:
    shown = files.shown(root, path)
    if not path.is_file():
        raise Invalid(f'{shown} is missing: it declares each column\'s dtype, for example {{"age": "int32"}}.')
    try:
        schema = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{shown} is not readable as JSON: {error}.") from None
    if not isinstance(schema, dict) or not all(isinstance(dtype, str) for dtype in schema.values()):
        raise Invalid(f'{shown} has to be one JSON object of column and dtype, for example {{"age": "int32"}}.')
    for name, dtype in schema.items():
        if dtype != CATEGORY and dtype not in _INTEGERS | _FLOATS:
            raise Invalid(
                f"{shown}: column {name!r} has the unknown dtype {dtype!r}; "
                "use 'category', 'int8' to 'int64', 'uint8' to 'uint64', or 'float16' to 'float64'."
            )
    if LABEL not in schema and meta == "predict":
        return schema
    if LABEL not in schema:
        raise Invalid(f"{shown}: the label column {LABEL!r} is missing; columns are {', '.join(schema)}.")
    if action == "regress" and schema[LABEL] == CATEGORY:
        raise Invalid(f"{shown}: {LABEL!r} is a category, but regress needs numbers: declare 'float64' or classify.")
    if action == "classify" and schema[LABEL] in _FLOATS:
        raise Invalid(f"{shown}: {LABEL!r} is {schema[LABEL]}, but classify needs classes: declare 'category'.")
    return schema


def _read_table(root: Path, path: Path, schema: dict[str, str], meta: Meta) -> pd.DataFrame:
    shown = files.shown(root, path)
    cells = _read_cells(path, schema, shown)
    header = list(cells)
    empty = {name for name in header if cells[name].isna().all()}
    missing = [name for name in schema if name not in header and not (name == LABEL and meta == "predict")]
    extra = [name for name in header if name not in schema and name not in empty]
    if missing or extra:
        raise Invalid(
            f"{shown} and its {SCHEMA} differ: "
            + "; ".join(
                f"{text}: {', '.join(names)}"
                for text, names in (("only in the schema", missing), ("only in the csv", extra))
                if names
            )
            + "."
        )
    frame = pd.DataFrame(
        {name: _typed(cells[name], schema[name], name, shown) for name in header if name in schema},
    )
    frame.index = pd.MultiIndex.from_product([[shown], range(len(frame))], names=["file", "row"])
    return frame


def _read_cells(path: Path, schema: dict[str, str], shown: str) -> pd.DataFrame:
    """Read a csv: categories as text, everything else as pandas finds it."""
    raw = files.read_header(path, shown)
    if not schema.keys() & {name.strip() for name in raw}:
        # A first line of values must not get into the message.
        raise Invalid(
            f"{shown} has none of the columns of its {SCHEMA} ({', '.join(schema)}) in its first line: "
            "the header is missing, or the separator is no comma."
        )
    categories = {name: str for name in raw if schema.get(name.strip()) == CATEGORY}
    return files.read_cells(path, shown, dtype=categories, na_values=["?"])


def _typed(cells: pd.Series[Any], dtype: str, name: str, shown: str) -> pd.Series[Any]:
    if dtype == CATEGORY:
        text = cells.str.strip()
        return labels.plain(text.where(text != ""))
    numbers = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    numbers = numbers.where(np.isfinite(numbers))
    junk = cells.notna() & numbers.isna()
    if junk.any():
        if numbers.isna().all():
            raise Invalid(
                f"{shown}: column {name!r} is declared {dtype}, but no cell is a number: "
                "declare it 'category' or correct the file."
            )
        log.warning("cells that are no numbers count as empty", file=shown, column=name, cells=int(junk.sum()))
    if dtype in _INTEGERS and (parts := numbers.index[numbers.notna() & (numbers % 1 != 0)]).size:
        raise Invalid(
            f"{shown}: column {name!r} is declared {dtype}, but row {parts[0]} (counted from 0) holds a fraction: "
            "declare it 'float64'."
        )
    return numbers


def _common(one: str, other: str, name: str, shown: str) -> str:
    if one == other:
        return one
    if CATEGORY in (one, other):
        raise Invalid(
            f"{shown}: column {name!r} is {other}, but {one} elsewhere: all schemas must agree on categories."
        )
    return "int64" if {one, other} <= _INTEGERS else "float64"


def _check_kinds(raw: dict[Meta, _Raw]) -> None:
    kinds: dict[str, tuple[bool, Meta]] = {}
    for meta, each in raw.items():
        for name, dtype in each.schema.items():
            category, first = kinds.setdefault(name, (dtype == CATEGORY, meta))
            if category != (dtype == CATEGORY):
                raise Invalid(
                    f"Column {name!r} is a category in the {first if category else meta} set and a number in the "
                    f"{meta if category else first} set: every {SCHEMA} must give it the same kind."
                )


def _prepare(raw: _Raw, imputer: Imputer, train: pd.DataFrame, action: Action, meta: Meta) -> Table:
    features = raw.features()
    if meta == "train":
        features = train
    # A column that is empty here but not in the training set is missing cells, not a missing column.
    for name in raw.frame.columns.intersection(sorted(set(train) - set(features))):
        features[name] = raw.frame[name].astype(CATEGORY if raw.schema[name] == CATEGORY else np.float64)
    if features.empty:
        raise Invalid(f"The {meta} set has no feature column that holds anything.")
    filled = {str(name): int(count) for name, count in features.notna().sum().items()}
    if gaps := sum(len(features) - count for count in filled.values()):
        log.info("empty cells are completed", meta=meta, cells=gaps)
        features = imputer.fill(features)
    X, names, buckets = _numbers(features)
    y, classes = labels.encode(raw.frame, action)
    frame = features if LABEL not in raw.frame else features.assign(**{LABEL: raw.frame[LABEL]})
    frame = frame.astype(
        {name: np.int64 for name in frame if raw.schema[name] in _INTEGERS and frame[name].notna().all()}
    )
    return Table(
        action=action,
        frame=frame,
        labels=classes,
        y=y,
        schema={name: raw.schema[name] for name in frame},
        features=names,
        X=X,
        buckets=buckets,
        filled=filled,
        dropped=raw.dropped,
    )


def _numbers(features: pd.DataFrame) -> tuple[NDArray[np.float64], list[str], dict[str, str]]:
    """Return one-hot columns, their names, and the bucket of each level."""
    columns: dict[str, NDArray[np.float64]] = {}
    buckets: dict[str, str] = {}
    for name in features:
        column = features[name]
        if column.dtype.name != CATEGORY:
            made = {name: column.to_numpy(dtype=np.float64)}
        else:
            levels = labels.order(column.unique())
            if len(levels) > _MAX_LEVELS:
                raise Invalid(
                    f"Column {name!r} is a category with {len(levels)} different values, more than {_MAX_LEVELS}: "
                    "declare it as a number or leave it out."
                )
            text = column.astype(str).to_numpy()
            made = {f"{name}_{level}": (text == level).astype(np.float64) for level in levels}
            buckets |= dict.fromkeys(made, f"{name}_{BUCKET}")
        if columns.keys() & made.keys():
            raise Invalid(
                f"Two columns become one name after one-hot, {name!r} or a level of it and another: rename one of them."
            )
        columns |= made
    names = sorted(columns)
    return np.column_stack([columns[name] for name in names]), names, buckets


def _listed(root: Path, folders: Sequence[Path]) -> str:
    return ", ".join(files.shown(root, folder) for folder in folders)
