"""A tag means exactly one folder, or the error says which ones there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from synergos.errors import Invalid
from synergos.jobs import Tags
from synergos.worker import tags


def resolve(root: Path, tag: list[str]) -> Path:
    return tags.resolve(root, Tags(train=[tag]))["train"][0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in (
        "abalone/dataset/data1/train",
        "abalone/dataset/data1/evaluate",
        "heart/dataset/data1/train/iid_1",
        "heart/dataset/data1/train",
        "dogs/train",
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "metadata.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("tag", "folder"),
    [
        (["abalone", "dataset", "data1", "train"], "abalone/dataset/data1/train"),
        (["train", "abalone"], "abalone/dataset/data1/train"),
        (["evaluate"], "abalone/dataset/data1/evaluate"),
        (["iid_1"], "heart/dataset/data1/train/iid_1"),
        (["heart", "dataset", "data1", "train"], "heart/dataset/data1/train"),
        (["train", "dogs"], "dogs/train"),
    ],
)
def test_resolves(root: Path, tag: list[str], folder: str) -> None:
    assert resolve(root, tag) == root / folder


@pytest.mark.parametrize(
    ("tag", "fragments"),
    [
        (["train"], ["ambiguous", "abalone/dataset/data1/train", "heart/dataset/data1/train/iid_1", "dogs/train"]),
        (["abalone", "dataset", "data1", "trian"], ["fits no data set", "Nearest: abalone/dataset/data1/train"]),
        (["q"], ["fits no data set", "Available: abalone/dataset/data1/evaluate, "]),
        (["..", "etc"], ["token '..'", "not usable"]),
        (["abalone/dataset"], ["token 'abalone/dataset'", "names of folders one by one"]),
        ([], ["empty"]),
    ],
)
def test_says_what_is_wrong(root: Path, tag: list[str], fragments: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(root, tag)
    assert all(fragment in caught.value.message for fragment in fragments), caught.value.message


def test_prefers_the_tokens_in_order(root: Path) -> None:
    (root / "data1/abalone").mkdir(parents=True)
    (root / "data1/abalone/metadata.json").write_text("{}")
    assert resolve(root, ["data1", "abalone"]) == root / "data1/abalone"
    assert resolve(root, ["data1", "train", "iid_1"]) == root / "heart/dataset/data1/train/iid_1"


def test_stays_inside_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "outside/train").mkdir(parents=True)
    (tmp_path / "outside/train/metadata.json").write_text("{}")
    root = tmp_path / "data"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(Invalid, match="No folder here holds"):
        resolve(root, ["train"])
