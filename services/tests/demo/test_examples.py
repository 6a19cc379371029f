"""The example data sets in the repository are exactly what their script writes, and what privacy lets be used."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ["breast_cancer", "diabetes", "digits", "webster", "wine"]
METAS = {"train", "non_iid_train", "evaluate", "predict"}


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of every data file and setting below `folder`."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.suffix != ".ipynb"}


def test_the_script_writes_the_committed_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLES / "make.py"), str(tmp_path)], check=True, capture_output=True)
    written = contents(tmp_path)
    assert sorted({path.split("/")[0] for path in written}) == NAMES
    assert written == contents(EXAMPLES)


def rows(name: str, participant: str, meta: str) -> list[dict[str, str]]:
    """Return the rows of one set."""
    (table,) = (EXAMPLES / name / "dataset" / participant / meta).glob("*.csv")
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMES)
def test_both_splits_share_the_same_rows_out(name: str) -> None:
    every = {p.name for p in (EXAMPLES / name / "dataset").glob("*/*")}
    assert every == METAS
    dealt = {
        meta: Counter(tuple(row.values()) for part in ("data1", "data2") for row in rows(name, part, meta))
        for meta in METAS
    }
    assert dealt["train"] == dealt["non_iid_train"]
    held = [dealt["train"], dealt["evaluate"], dealt["predict"]]
    # One tumour, wine or definition may equal another; a row as such is in one set only.
    assert sum((each & other).total() for each, other in zip(held, held[1:] + held[:1], strict=True)) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "diabetes"])
@pytest.mark.parametrize("train", ["train", "non_iid_train"])
def test_no_class_is_too_rare_to_be_told(name: str, train: str) -> None:
    for participant in ("data1", "data2"):
        sets = [rows(name, participant, meta) for meta in (train, "evaluate", "predict")]
        counts = Counter(row["target"] for each in sets for row in each)
        assert min(counts.values()) >= 5
        assert min(Counter(row["target"] for row in sets[0]).values()) >= 5


def test_the_notebooks_are_what_their_script_writes_without_outputs(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLES / "notebooks.py"), str(tmp_path)], check=True, capture_output=True)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.ipynb")}
    tiers = ("basic", "cluster", "plus")
    assert sorted(map(str, written)) == [f"{name}/{tier}.ipynb" for name in NAMES for tier in tiers]
    assert written == {path.relative_to(EXAMPLES): path.read_bytes() for path in EXAMPLES.rglob("*.ipynb")}
