"""The files of a participant's data sets: which belong to a tag, and how csv files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from synergos.errors import Invalid
from synergos.worker.tags import METADATA


def shown(root: Path, path: Path) -> str:
    """Return `path` as messages name it: below the data folder."""
    return path.relative_to(root).as_posix()


def of_tag(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a tag, sorted; folders below it that are tags of their own are left to those."""
    nested = [path.parent for path in folder.rglob(METADATA) if path.parent != folder]
    found = (path for path in folder.rglob(pattern) if not any(path.is_relative_to(other) for other in nested))
    return sorted(path for path in found if path.is_file())


def csvs(root: Path, folder: Path) -> list[Path]:
    """Return the csv files of a tag; raises `Invalid` if there are none."""
    paths = of_tag(folder, "*.csv")
    if not paths:
        raise Invalid(f"{shown(root, folder)} holds no csv file.")
    return paths


def read_header(path: Path, name: str) -> list[str]:
    """Return the first line of a csv, not stripped. Raises `Invalid` if a column has no name or that of another."""
    first = _read(path, name, header=None, nrows=1, dtype=str, keep_default_na=False)
    raw = [str(cell) for cell in first.iloc[0]]
    header = [cell.strip() for cell in raw]
    if "" in header:
        place = header.index("") + 1
        raise Invalid(f"{name}: column {place} has no name; was the file written with an index column?")
    # Without a header the first line holds values, which must not get into a message.
    if twice := [place for place, each in enumerate(header) if each in header[:place]]:
        first = header.index(header[twice[0]]) + 1
        raise Invalid(f"{name}: columns {first} and {twice[0] + 1} have the same name.")
    return raw


def read_cells(path: Path, name: str, **options: Any) -> pd.DataFrame:
    """Return the rows of a csv under the stripped names of its columns.

    Args:
        name: what messages call the file.
        options: of `pandas.read_csv`.

    Raises:
        Invalid: the file is empty, no csv in UTF-8, or has no rows.
    """
    cells = _read(path, name, skipinitialspace=True, low_memory=False, **options)
    if cells.empty:
        raise Invalid(f"{name} has a header but no rows.")
    if not isinstance(cells.index, pd.RangeIndex):
        # That is how pandas takes a first row with more cells than the header.
        raise Invalid(f"{name} is not readable as csv: the first row has more cells than the header.")
    return cells.rename(columns=lambda column: str(column).strip())


def read_text_cells(path: Path, name: str) -> pd.DataFrame:
    """Return the rows of a csv as stripped text; an empty cell is an empty text."""
    read_header(path, name)
    cells = read_cells(path, name, dtype=str, keep_default_na=False, na_filter=False)
    return cells.apply(lambda column: column.str.strip())


def _read(path: Path, name: str, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except pd.errors.EmptyDataError:
        raise Invalid(f"{name} is empty.") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{name} is not readable as csv: {str(error).strip()}.") from None
