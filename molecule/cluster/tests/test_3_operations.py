"""A second converge, status, the README and cleanup on a cluster that is up."""

from __future__ import annotations

import json
import re

import docker
import pytest
from conftest import (
    CONTAINERS,
    FULL,
    OUTPUTS,
    ROOT,
    TIER,
    Broker,
    Director,
    letters,
    playbook,
    readme_commands,
    run,
    started,
)

NOTEBOOKS = sorted(path.parent.name for path in (ROOT / "examples").glob("*/cluster.ipynb")) if FULL else ["wine"]
EXECUTED = ROOT / "outputs" / TIER / "sync_notebook/executed"


def test_a_second_run_changes_nothing_and_executes_few_modules(client: docker.DockerClient) -> None:
    before = started(client)
    done = playbook("syncluster", "-vvv")
    assert done.rc == 0 and done.changed == 0, done.output
    assert done.output.count("Using module file") <= 6
    assert started(client) == before


@pytest.mark.parametrize("command", readme_commands("cluster"))
def test_readme(command: str) -> None:
    done = run("bash", "-c", command)
    assert done.rc == 0, done.output
    if "demo" in command or "syncluster" in command:
        assert re.search(r"^ *train +\S+/model/run +[01] +sync_ttp_[12]$", done.output, re.MULTILINE), done.output
        assert "8 trials in" in done.output
        assert len(re.findall(r"^ *\d .* complete best$", done.output, re.MULTILINE)) == 1, done.output
        for page in ("9000/search", "5500/#/experiments/", "15672"):
            assert f"http://127.0.0.1:{page}" in done.output


def test_the_notebooks_of_the_tier_search() -> None:
    done = playbook("notebooks", "-e", f"tier={TIER}", "-e", json.dumps({"notebooks_execute": NOTEBOOKS}))
    assert done.rc == 0, done.output
    for name in NOTEBOOKS:
        cells = json.loads((EXECUTED / name / "cluster.ipynb").read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
        text = "".join("".join(output.get("text", "")) for output in outputs)
        assert text.count("done by sync_ttp_") == 2
        assert "In MLflow: http://127.0.0.1:5500/#/experiments/" in text
        assert len(re.findall(r"complete best$", text, re.MULTILINE)) == 1


def test_the_next_converge_leaves_the_clusters_own_containers() -> None:
    done = playbook("syncluster")
    assert done.rc == 0, done.output


def test_status_shows_every_component(client: docker.DockerClient) -> None:
    assert set(started(client)) == set(CONTAINERS)
    done = playbook("status", "-e", f"tier={TIER}")
    assert done.rc == 0, done.output
    for name, address in CONTAINERS.items():
        row = next(line for line in done.output.splitlines() if f" {name} " in line)
        assert address in row and "healthy" in row


def test_cleanup_spares_the_queues_unless_told(client: docker.DockerClient, broker: Broker, director: Director) -> None:
    before = started(client)
    broker.publish("SynMQ_topic_train", "{}")
    kept = letters(client, "list")
    assert kept and list(OUTPUTS.iterdir())

    done = run("./cleanup.sh", "--yes", "--tier", TIER)
    assert done.rc == 0, done.output
    assert not list(OUTPUTS.iterdir())
    assert director.call("GET", "jobs") == []
    assert director.ask("GET", "connect/collaborations").json()["data"] == []
    assert letters(client, "list") == kept

    done = run("./cleanup.sh", "-V", "--yes", "--tier", TIER, "--queues")
    assert done.rc == 0 and "queue dead" in done.output, done.output
    assert letters(client, "list") == []
    assert started(client) == before
