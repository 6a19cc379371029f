"""Tables: csv files with a schema.json beside them, checked, completed and turned into numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synergos.errors import Invalid
from synergos.jobs import Action, Meta, Tags
from synergos.logs import get_logger
from synergos.worker.imputation import Imputer
from synergos.worker.prepared import LABEL, Prepared
from synergos.worker.tags import METADATA, resolve

SCHEMA = "schema.json"
CATEGORY = "category"
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_FLOATS = {"float16", "float32", "float64"}
_MAX_LEVELS = 1000
# Below this number of rows a mean describes single rows, so evaluate and predict sets then do not tell it.
_MIN_ROWS = 10

log = get_logger("worker.tabular")


@dataclass(frozen=True)
class Table(Prepared):
    """A prepared table.

    Attributes:
        frame: the merged and completed rows before one-hot, indexed by `rows`; with `target` if any row has one.
        schema: column → dtype name, as declared.
        metadata: what the participant tells about this set: row count, and per column the levels of a category or
            the mean and population standard deviation of a number.
    """

    frame: pd.DataFrame
    schema: dict[str, str]
    metadata: dict[str, Any]


def load(root: Path, tags: Tags, action: Action) -> dict[Meta, Table]:
    """Read and prepare every set that `tags` name.

    Empty cells are completed from the nearest training rows. Rows without a label are left out of `train` and
    `evaluate` and kept in `predict`; no other row is ever dropped.

    Args:
        root: data folder of the participant.
        tags: data sets per meta; `train` is needed.
        action: decides how the `target` column is read.

    Raises:
        Invalid: a data set that cannot be used; the message names file, column and what would be right.
    """
    raw = {meta: _Raw.read(root, folders, action, meta) for meta, folders in resolve(root, tags).items()}
    _check_kinds(raw)
    train = raw["train"].features()
    whole = {name for each in raw.values() for name, dtype in each.schema.items() if dtype in _INTEGERS}
    imputer = Imputer(train, whole)
    return {meta: _prepare(each, imputer, set(train), action, meta) for meta, each in raw.items()}


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
        for path in [path for folder in folders for path in _tables(root, folder)]:
            declared = _read_schema(root, path.with_name(SCHEMA), action)
            frames.append(_read_table(root, path, declared, meta))
            for name, dtype in declared.items():
                schema[name] = _common(schema.get(name, dtype), dtype, name, _shown(root, path.with_name(SCHEMA)))
        frame = pd.concat(frames)
        if LABEL not in frame or frame[LABEL].isna().all():
            if meta != "predict":
                raise Invalid(f"No row of the {meta} set ({_listed(root, folders)}) has a usable label in {LABEL!r}.")
            frame = frame.drop(columns=LABEL, errors="ignore")
        dropped = 0
        if meta != "predict":
            labelled = frame[LABEL].notna()
            dropped = int((~labelled).sum())
            if dropped:
                log.warning("rows without a label are left out", meta=meta, rows=dropped)
                frame = frame[labelled]
        return cls(frame, {name: schema[name] for name in frame}, dropped)

    def features(self) -> pd.DataFrame:
        """Return the feature columns that hold anything."""
        features = self.frame.drop(columns=LABEL, errors="ignore").dropna(axis=1, how="all")
        for name in features:
            if self.schema[name] == CATEGORY:
                features[name] = features[name].astype(CATEGORY)
        return features


def _tables(root: Path, folder: Path) -> list[Path]:
    """Return the csv files of a tag; folders below it that are tags of their own are left to those."""
    try:
        datatype = json.loads((folder / METADATA).read_text("utf-8"))["datatype"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Invalid(
            f'{_shown(root, folder / METADATA)} is not usable: it has to be JSON like {{"datatype": "tabular"}}.'
        ) from None
    if datatype != "tabular":
        kinds = "is not supported yet" if datatype in ("image", "text") else "is unknown"
        raise Invalid(f"{_shown(root, folder / METADATA)}: datatype {datatype!r} {kinds}; 'tabular' is supported.")
    nested = [path.parent for path in folder.rglob(METADATA) if path.parent != folder]
    paths = sorted(path for path in folder.rglob("*.csv") if not any(path.is_relative_to(other) for other in nested))
    if not paths:
        raise Invalid(f"{_shown(root, folder)} holds no csv file.")
    return paths


def _read_schema(root: Path, path: Path, action: Action) -> dict[str, str]:
    shown = _shown(root, path)
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
    if LABEL not in schema:
        raise Invalid(f"{shown}: the label column {LABEL!r} is missing; columns are {', '.join(schema)}.")
    if action == "regress" and schema[LABEL] == CATEGORY:
        raise Invalid(f"{shown}: {LABEL!r} is a category, but regress needs numbers: declare 'float64' or classify.")
    if action == "classify" and schema[LABEL] in _FLOATS:
        raise Invalid(f"{shown}: {LABEL!r} is {schema[LABEL]}, but classify needs classes: declare 'category'.")
    return schema


def _read_table(root: Path, path: Path, schema: dict[str, str], meta: Meta) -> pd.DataFrame:
    shown = _shown(root, path)
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
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, encoding="utf-8-sig", keep_default_na=False)
        raw = [str(name) for name in first.iloc[0]]
        header = [name.strip() for name in raw]
        if "" in header:
            place = header.index("") + 1
            raise Invalid(f"{shown}: column {place} has no name; was the file written with an index column?")
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise Invalid(f"{shown}: column {twice[0]!r} appears {header.count(twice[0])} times.")
        cells = pd.read_csv(
            path,
            encoding="utf-8-sig",
            dtype={name: str for name, own in zip(raw, header, strict=True) if schema.get(own) == CATEGORY},
            na_values=["?"],
            skipinitialspace=True,
            low_memory=False,
        )
    except pd.errors.EmptyDataError:
        raise Invalid(f"{shown} is empty.") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{shown} is not readable as csv: {str(error).strip()}.") from None
    if cells.empty:
        raise Invalid(f"{shown} has a header but no rows.")
    if not isinstance(cells.index, pd.RangeIndex):
        # That is how pandas takes a first row with more cells than the header.
        raise Invalid(f"{shown} is not readable as csv: the first row has more cells than the header.")
    return cells.set_axis(header, axis=1)


def _typed(cells: pd.Series[Any], dtype: str, name: str, shown: str) -> pd.Series[Any]:
    if dtype == CATEGORY:
        text = cells.str.strip()
        # A level keeps its name whether the csv was written from integers or, next to an empty cell, from floats.
        return text.where(text != "").str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    numbers = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    numbers = numbers.where(np.isfinite(numbers))
    junk = cells.notna() & numbers.isna()
    if junk.any():
        if numbers.isna().all():
            raise Invalid(
                f"{shown}: column {name!r} is declared {dtype}, but no cell is a number "
                f"(the first is {str(cells[junk].iloc[0])!r}): declare it 'category' or correct the file."
            )
        log.warning("cells that are no numbers count as empty", file=shown, column=name, cells=int(junk.sum()))
    if dtype in _INTEGERS and (parts := numbers[numbers.notna() & (numbers % 1 != 0)]).size:
        raise Invalid(f"{shown}: column {name!r} is declared {dtype} but holds {parts.iloc[0]}: declare it 'float64'.")
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


def _prepare(raw: _Raw, imputer: Imputer, trained: set[str], action: Action, meta: Meta) -> Table:
    features = raw.features()
    # A column that is empty here but not in the training set is missing cells, not a missing column.
    for name in raw.frame.columns.intersection(sorted(trained - set(features))):
        features[name] = raw.frame[name].astype(CATEGORY if raw.schema[name] == CATEGORY else np.float64)
    if features.empty:
        raise Invalid(f"The {meta} set has no feature column that holds anything.")
    imputed = int(features.isna().to_numpy().sum())
    if imputed:
        log.info("empty cells are completed", meta=meta, cells=imputed)
        features = imputer.fill(features)
    X, names = _numbers(features)
    y, labels = _labels(raw.frame, action)
    frame = features if LABEL not in raw.frame else features.assign(**{LABEL: raw.frame[LABEL]})
    frame = frame.astype(
        {name: np.int64 for name in frame if raw.schema[name] in _INTEGERS and frame[name].notna().all()}
    )
    return Table(
        action=action,
        features=names,
        labels=labels,
        X=X,
        y=y,
        rows=frame.index,
        frame=frame,
        schema={name: raw.schema[name] for name in frame},
        metadata={
            "src_count": len(frame),
            "_type": "tabular",
            "features": _describe(features, raw.schema, told=meta == "train" or len(features) >= _MIN_ROWS),
            "dropped_count": raw.dropped,
            "imputed_count": imputed,
        },
    )


def _numbers(features: pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    columns: dict[str, NDArray[np.float64]] = {}
    for name in features:
        column = features[name]
        if column.dtype.name != CATEGORY:
            made = {name: column.to_numpy(dtype=np.float64)}
        else:
            levels = _order(column.unique())
            if len(levels) > _MAX_LEVELS:
                raise Invalid(
                    f"Column {name!r} is a category with {len(levels)} different values, more than {_MAX_LEVELS}: "
                    "declare it as a number or leave it out."
                )
            text = column.astype(str).to_numpy()
            made = {f"{name}_{level}": (text == level).astype(np.float64) for level in levels}
        if both := sorted(columns.keys() & made.keys()):
            raise Invalid(f"Two columns become one name, {both[0]!r}, after one-hot: rename one of them.")
        columns |= made
    names = sorted(columns)
    return np.column_stack([columns[name] for name in names]), names


def _labels(frame: pd.DataFrame, action: Action) -> tuple[NDArray[np.float64], list[str]]:
    if LABEL not in frame:
        return np.zeros((len(frame), 0)), []
    target = frame[LABEL]
    if action == "regress":
        return target.to_numpy(dtype=np.float64).reshape(-1, 1), [LABEL]
    text = target if target.dtype == object else target.map("{:.0f}".format, na_action="ignore")
    classes = _order(text.dropna().unique())
    return np.column_stack([text == each for each in classes]).astype(np.float64), [f"{LABEL}_{c}" for c in classes]


def _order(values: Sequence[Any]) -> list[str]:
    """Sort by number if every value is one, else by text."""
    try:
        return sorted(map(str, values), key=lambda value: (float(value), value))
    except ValueError:
        return sorted(map(str, values))


def _describe(features: pd.DataFrame, schema: dict[str, str], told: bool) -> dict[str, Any]:
    categories, numbers = {}, {}
    for name in sorted(features):
        column = features[name]
        facts: dict[str, Any] = {"datatype": schema[name], "count": len(column)}
        if schema[name] == CATEGORY:
            levels = _order(column.unique())
            categories[name] = {**facts, "labels": levels, "unique": len(levels)}
        else:
            moments = {"mean": float(column.mean()), "std": float(column.std(ddof=0))}
            numbers[name] = {**facts, **moments} if told else facts
    return {"cat_variables": categories, "num_variables": numbers, "misc_variables": {}}


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _listed(root: Path, folders: Sequence[Path]) -> str:
    return ", ".join(_shown(root, folder) for folder in folders)
