"""Data sets in the Synergos format, written as a participant would have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from heart import HEART, Write, heart

from synergos.jobs import Action, Layout, Tags
from synergos.worker import datasets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def write(root: Path) -> Write:
    """Write one tag's folder and return the tag. None leaves a file out; text is written as it is."""

    def write(tag: str, csv: str | bytes | None, schema: Any, metadata: Any = None) -> list[str]:
        folder = root / tag
        folder.mkdir(parents=True, exist_ok=True)
        datatype = {"datatype": "tabular", "operations": {}} if metadata is None else metadata
        for name, content in (("data.csv", csv), ("schema.json", schema), ("metadata.json", datatype)):
            if isinstance(content, dict | list):
                content = json.dumps(content)
            if content is not None:
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tag.split("/")

    return write


@pytest.fixture
def prepare(root: Path, tmp_path: Path) -> Callable[..., datasets.Preparation]:
    """Prepare the data of tags, as a poll does."""

    def prepare(
        tags: Tags, action: Action = "classify", minimum_rows: int = 1, layout: Layout | None = None
    ) -> datasets.Preparation:
        folder = tmp_path / "prepared"
        folder.mkdir(exist_ok=True)
        return datasets.prepare(root, tags, action, folder, minimum_rows=minimum_rows, layout=layout)

    return prepare


@pytest.fixture
def heart_tags(write: Write) -> Tags:
    return Tags(
        train=[write("heart/data1/train", heart(60, 1), HEART)],
        evaluate=[write("heart/data1/evaluate", heart(20, 2), HEART)],
        predict=[write("heart/data1/predict", heart(12, 3), HEART)],
    )
