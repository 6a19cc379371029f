"""status, notebooks, the README and a second converge on a grid that is up."""

from __future__ import annotations

import json

import docker
import pytest
from conftest import CONTAINERS, FULL, ROOT, TIER, playbook, readme_commands, run, started

NOTEBOOKS = sorted(path.parent.name for path in (ROOT / "examples").glob("*/plus.ipynb")) if FULL else ["wine"]
EXECUTED = ROOT / "outputs" / TIER / "synp_notebook/executed"


def test_status_shows_every_component() -> None:
    done = playbook("status", "-e", f"tier={TIER}")
    assert done.rc == 0, done.output
    for name, address in CONTAINERS.items():
        row = next(line for line in done.output.splitlines() if f" {name} " in line)
        assert address in row and "healthy" in row


def test_a_second_run_changes_nothing_and_executes_few_modules(client: docker.DockerClient) -> None:
    before = started(client)
    done = playbook("synplus", "-vvv")
    assert done.rc == 0 and done.changed == 0, done.output
    assert done.output.count("Using module file") <= 5
    assert started(client) == before


def test_the_notebooks_of_the_tier_show_what_mlflow_and_graylog_have(said: str) -> None:
    done = playbook("notebooks", "-e", f"tier={TIER}", "-e", json.dumps({"notebooks_execute": NOTEBOOKS}))
    assert done.rc == 0, done.output
    for name in NOTEBOOKS:
        cells = json.loads((EXECUTED / name / "plus.ipynb").read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
        text = "".join("".join(output.get("text", "")) for output in outputs)
        assert "In MLflow: http://127.0.0.1:5500/#/experiments/" in text
        assert "In Graylog: http://127.0.0.1:9000/search" in text
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@pytest.mark.parametrize("command", [line for line in readme_commands("plus") if line != "make synplus"])
def test_readme(said: str, command: str) -> None:
    done = run("bash", "-c", command)
    assert done.rc == 0, done.output


def test_the_next_converge_takes_jupyterlab_away(said: str, client: docker.DockerClient) -> None:
    assert "synp_notebook" in started(client)
    done = playbook("synplus")
    assert done.rc == 0, done.output
    assert set(started(client)) == set(CONTAINERS)
