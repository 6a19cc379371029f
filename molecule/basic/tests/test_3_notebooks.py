"""JupyterLab on the grid, and every notebook from top to bottom."""

from __future__ import annotations

import json
import re
from typing import Any

import docker
import pytest
import requests
from conftest import CONTAINERS, ROOT, inspect, playbook, started

NAMES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/basic.ipynb"))
EXECUTED = ROOT / "outputs/synergos_basic/synb_notebook/executed"


def outputs(path: Any) -> list[dict[str, Any]]:
    """Return the outputs of all cells of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def said(client: docker.DockerClient) -> str:
    """What the playbook says after it has run all notebooks."""
    done = playbook("notebooks", "-e", json.dumps({"notebooks_execute": NAMES}))
    assert done.rc == 0, done.output
    return done.output


def test_every_notebook_ends_with_its_plots(said: str) -> None:
    assert len(NAMES) == 5
    for name in NAMES:
        found = outputs(EXECUTED / name / "basic.ipynb")
        assert not [output for output in found if output["output_type"] == "error" or output.get("name") == "stderr"]
        tables = ["".join(output.get("data", {}).get("text/plain", "")) for output in found]
        assert sum("central" in table and "worker_2 alone" in table for table in tables) == 2
        assert "image/png" in found[-1]["data"]
        # Work is on copies: the examples stay without outputs.
        assert outputs(ROOT / "examples" / name / "basic.ipynb") == []


def test_jupyter_asks_for_its_token(said: str) -> None:
    address, token = re.search(r"(http://127\.0\.0\.1:8888)/lab\?token=(\w+)", said).groups()  # type: ignore[union-attr]
    assert requests.get(f"{address}/api/contents", timeout=10).status_code == 403
    listed = requests.get(f"{address}/api/contents", params={"token": token}, timeout=10).json()["content"]
    assert {entry["name"] for entry in listed} == {*NAMES, "executed"}
    folder = requests.get(f"{address}/api/contents/wine", params={"token": token}, timeout=10).json()["content"]
    assert {"basic.ipynb", "dataset"} <= {entry["name"] for entry in folder}


def test_it_is_no_trouble_to_the_grid(said: str, client: docker.DockerClient) -> None:
    assert inspect(client, "synb_notebook")["HostConfig"]["PortBindings"]["8888/tcp"][0]["HostIp"] == "127.0.0.1"
    again = playbook("notebooks")
    assert again.rc == 0 and again.changed == 0, again.output
    status = playbook("status", "-e", "tier=synergos_basic")
    assert status.rc == 0 and "synb_notebook" in status.output

    before = started(client)
    done = playbook("synbasic")
    assert done.rc == 0, done.output
    after = started(client)
    assert set(after) == set(CONTAINERS) and after == {name: before[name] for name in after}
