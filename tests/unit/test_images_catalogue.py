"""Images are named by their content: what counts, what does not, and what a wrong catalogue says."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.plugin_utils import _catalogue as catalogue

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """base ← middle ← leaf, and leaf includes the code below src/."""
    settings = {
        "base": "root: {image: 'debian:trixie-slim', suite: trixie}",
        "middle": "from: base",
        "leaf": "from: middle\ninclude: [src]",
    }
    for name, text in settings.items():
        image = tmp_path / "images" / name
        image.mkdir(parents=True)
        (image / "image.yml").write_text(text)
        (image / "Dockerfile").write_text("ARG PARENT\nFROM ${PARENT}\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("print(1)\n")
    return tmp_path / "images"


def references(folder: Path, *names: str, **replaced: str) -> dict[str, str]:
    definitions = catalogue.load(folder)
    return catalogue.references(definitions, catalogue.select(definitions, names, replaced), replaced)


def test_parents_come_first_and_each_once(folder: Path) -> None:
    definitions = catalogue.load(folder)
    assert catalogue.select(definitions, ["leaf", "middle"], {}) == ["base", "middle", "leaf"]


def test_only_what_derives_from_a_change_gets_a_new_name(folder: Path) -> None:
    before = references(folder, "leaf")
    (folder.parent / "src/code.py").write_text("print(2)\n")
    after = references(folder, "leaf")
    assert {name for name in before if before[name] != after[name]} == {"leaf"}
    (folder / "base/Dockerfile").write_text("ARG PARENT\nFROM ${PARENT}\nRUN true\n")
    assert set(references(folder, "leaf").values()).isdisjoint(after.values())


def test_a_moved_file_changes_the_name(folder: Path) -> None:
    before = references(folder, "leaf")["leaf"]
    (folder.parent / "src/code.py").rename(folder.parent / "src/moved.py")
    assert references(folder, "leaf")["leaf"] != before


def test_modes_times_and_leftovers_do_not_count(folder: Path, tmp_path: Path) -> None:
    before = references(folder, "leaf")
    script = folder.parent / "src/code.py"
    script.chmod(0o755)
    (folder.parent / "src/__pycache__").mkdir()
    (folder.parent / "src/__pycache__/code.cpython-313.pyc").write_bytes(b"x")
    (folder.parent / "src/code.py~").write_text("x")
    (folder.parent / "src/.code.py.swp").write_text("x")
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder.parent / "src", moved / "src", copy_function=shutil.copy)
    shutil.copytree(folder, moved / "images", copy_function=shutil.copy)
    assert references(moved / "images", "leaf") == references(folder, "leaf") == before


def test_a_replaced_image_needs_no_parents_and_names_its_children(folder: Path) -> None:
    built = references(folder, "leaf")
    replaced = references(folder, "leaf", middle="lan/middle:1")
    assert set(replaced) == {"middle", "leaf"}
    assert replaced["middle"] == "lan/middle:1"
    assert replaced["leaf"] != built["leaf"]


def test_the_context_is_the_same_wherever_it_comes_from(folder: Path) -> None:
    (folder / "base/probe").write_text("#!/bin/sh\n")
    (folder / "base/probe").chmod(0o600)
    packed = catalogue.context(catalogue.load(folder)["base"].files)
    (folder / "base/probe").chmod(0o777)
    assert catalogue.context(catalogue.load(folder)["base"].files) == packed
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        modes = {entry.name: entry.mode for entry in archive}
    assert modes == {"Dockerfile": 0o644, "image.yml": 0o644, "probe": 0o755}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from: nowhere", "from: nowhere is not in the catalogue (base, leaf, middle)"),
        ("from: [", "not valid YAML"),
        ("form: base", "the keys are from (or root) and include"),
        ("include: [src]", "give either from"),
        ("{from: base, root: {image: a, suite: b}}", "give either from"),
        ("root: {image: a}", "give either from"),
        ("{from: base, include: [../src]}", "must be a path below"),
        ("{from: base, include: [/etc]}", "must be a path below"),
        ("{from: base, include: [gone]}", "does not exist"),
    ],
)
def test_a_wrong_definition_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "leaf/image.yml").write_text(text)
    with pytest.raises(GridError, match="leaf") as caught:
        catalogue.load(folder)
    assert message in str(caught.value)


def test_a_circle_is_named(folder: Path) -> None:
    (folder / "middle/image.yml").write_text("from: leaf")
    with pytest.raises(GridError, match="leaf → middle → leaf"):
        references(folder, "leaf")


def test_unknown_names_list_the_known_ones(folder: Path) -> None:
    with pytest.raises(GridError, match=r"unknown image leaff: .*base, leaf, middle"):
        references(folder, "leaff")
    with pytest.raises(GridError, match=r"synergos_images: there is no image leaff.*base, leaf, middle"):
        catalogue.replacements(catalogue.load(folder), {"leaff": {"image": "a"}})


@pytest.mark.parametrize("choice", ["lan/leaf:1", {}, {"image": ""}, {"image": 1}, {"image": "a", "tag": "b"}])
def test_a_replacement_is_one_reference(folder: Path, choice: object) -> None:
    with pytest.raises(GridError, match=r"synergos_images.leaf must be {image: <reference>}"):
        catalogue.replacements(catalogue.load(folder), {"leaf": choice})


def test_the_catalogue_of_the_collection_is_complete() -> None:
    definitions = catalogue.load(ROOT / "images")
    ordered = catalogue.select(definitions, definitions, {})
    assert set(ordered) == set(definitions) >= {"base", "ml", "ttp", "worker", "test"}
    assert "services/src/synergos/__init__.py" in definitions["worker"].files
    assert not [path for path in definitions["test"].files if path.startswith("services/src")], (
        "the tests' code is mounted"
    )


def test_every_python_package_is_pinned_and_none_is_debians() -> None:
    lines = (ROOT / "services/constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    names = {line.split("==")[0].lower() for line in pins}
    assert not names & {"numpy", "scipy", "pandas", "scikit-learn", "torch"}
    assert {"flwr", "fastapi", "sqlalchemy", "hatchling", "pytest"} <= names
