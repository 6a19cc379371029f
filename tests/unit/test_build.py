"""What a run says of the images that it uses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from ansible_collections.synergos.grid.plugins.lookup.build import references, revision

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    argv = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_the_revision_is_that_of_what_images_are_made_of(tmp_path: Path) -> None:
    for name in ("images", "services", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("one")
    shutil.copy(ROOT / "galaxy.yml", tmp_path)
    version = revision(tmp_path)
    assert version.count(".") == 2  # no repository
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    first = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "docs/file").write_text("two")
    git(tmp_path, "commit", "-a", "-m", "words only")
    assert revision(tmp_path) == first
    (tmp_path / "services/file").write_text("two")
    assert revision(tmp_path) == f"{first}-dirty"
    git(tmp_path, "commit", "-a", "-m", "second")
    assert revision(tmp_path) == git(tmp_path, "rev-parse", "HEAD")


def test_an_installed_collection_has_its_version(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"collection_info": {"version": "9.8.7"}}))
    assert revision(tmp_path) == "9.8.7"


def test_images_are_named_as_they_will_be_built() -> None:
    full = "registry.example.org/worker:3"
    found = references(["ttp", "worker", full], {"ttp": {"image": "mine:1"}})
    assert (found["ttp"], found[full]) == ("mine:1", full)
    assert re.fullmatch(r"synergos/worker:[0-9a-f]{12}", found["worker"])
