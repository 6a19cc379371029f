"""Files of runs by HTTP."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from grid_double import listening

from synergos import artefacts
from synergos.artefacts import Keys, Store
from synergos.errors import GridFailure, NotFound
from synergos.rest import create_api

IDS = ("a collab", "p", "e", "r")


def write(store: Store, **files: str) -> None:
    folder = store.folder(IDS)
    (folder / "checkpoints" / "round_2").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "round_2" / "global_model.pt").write_text("old")
    (folder / "unfinished").mkdir(exist_ok=True)
    (folder / "unfinished" / "state").write_text("secret")
    (folder / "half.pt.part").write_text("half")
    for name, text in files.items():
        (folder / f"{name}.pt").write_text(text)


def names(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.folder(IDS))) for path in store.folder(IDS).rglob("*.pt"))


def test_fetching_and_removing(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    token = Keys(tmp_path / "key").token(IDS)
    assert Keys(tmp_path / "key").token(IDS) == token
    write(there, global_model="1", local_model_w="2")
    there.allow(IDS, token)
    app = create_api("test")
    app.include_router(artefacts.create_router(there, there.allowed, removable=True))
    with listening(app) as address:
        url = artefacts.url(address, IDS)
        for wrong in ("x", Keys(tmp_path / "other").token(IDS)):
            for verb in ("GET", "DELETE"):
                assert httpx.request(verb, url, headers={"Authorization": f"Bearer {wrong}"}).status_code == 403
        assert httpx.get(url).status_code == 403
        here.fetch(IDS, url, token, ["global_model.pt"])
        assert names(here) == ["global_model.pt"]
        here.fetch(IDS, url, token, origin="job/1")
        assert names(here) == ["checkpoints/round_2/global_model.pt", "global_model.pt", "local_model_w.pt"]
        assert not (here.folder(IDS) / "unfinished").exists()
        write(there, global_model="3")
        here.fetch(IDS, url, token, origin="job/1")
        assert (here.folder(IDS) / "global_model.pt").read_text() == "1", "what is there is not fetched again"
        here.fetch(IDS, url, token, origin="job/2")
        assert (here.folder(IDS) / "global_model.pt").read_text() == "3"
        here.drop(url, token)
        assert not there.folder(IDS).exists()
        with pytest.raises(NotFound):
            here.fetch(IDS, url, token, origin="job/3")
        assert (here.folder(IDS) / "global_model.pt").read_text() == "3"
    with pytest.raises(GridFailure, match="cannot be read"):
        here.fetch(IDS, url, token, origin="job/3")
    here.drop(url, token)
    assert [path.name for path in here.folder(IDS).iterdir() if path.name.startswith(".incoming")] == []


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    runs = [("c", "p", f"e{number}", "r") for number in range(5)]
    for age, ids in enumerate(runs):
        store.note(ids, "answered")
        os.utime(store.folder(ids), (age, age))
    store.prune(newest=2)
    assert [store.noted(ids) for ids in runs] == ["", "", "", "answered", "answered"]
    store.prune(newest=0)
    assert list((tmp_path / "outputs").iterdir()) == []


def test_what_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    write(there, global_model="1")
    there.allow(IDS, "token")
    left = here.folder(IDS) / ".incoming-abc"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    app = create_api("test")
    app.include_router(artefacts.create_router(there, there.allowed, removable=True))
    with listening(app) as address:
        here.fetch(IDS, artefacts.url(address, IDS), "token", origin="job/1")
    assert not left.exists() and names(here)[-1] == "global_model.pt"


def test_each_job_has_a_token_of_its_own(tmp_path: Path) -> None:
    """What a late message of another job leaves in the same place is not taken for this one's."""
    keys, store = Keys(tmp_path / "key"), Store(tmp_path / "outputs")
    store.allow(IDS, keys.token(IDS, "job"))
    assert store.allowed(IDS, keys.token(IDS, "job"))
    assert not store.allowed(IDS, keys.token(IDS, "other")) and not keys.allowed(IDS, keys.token(IDS, "job"))
