"""Files of runs by HTTP."""

from __future__ import annotations

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
