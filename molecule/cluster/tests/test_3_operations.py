"""A second converge, status, the README and cleanup on a cluster that is up."""

from __future__ import annotations

import docker
import pytest
from conftest import CONTAINERS, OUTPUTS, TIER, Broker, Director, letters, playbook, readme_commands, run, started


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

    listed = run("./cleanup.sh", "-V", "--dry-run", "--tier", TIER, "--queues")
    assert listed.rc == 0 and "queue dead" in listed.output, listed.output
    done = run("./cleanup.sh", "--yes", "--tier", TIER)
    assert done.rc == 0, done.output
    assert not list(OUTPUTS.iterdir())
    assert director.call("GET", "jobs") == []
    assert director.ask("GET", "connect/collaborations").json()["data"] == []
    assert letters(client, "list") == kept

    done = run("./cleanup.sh", "--yes", "--tier", TIER, "--queues")
    assert done.rc == 0, done.output
    assert letters(client, "list") == []
    assert started(client) == before
