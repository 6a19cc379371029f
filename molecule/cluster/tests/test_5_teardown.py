"""What teardown keeps is there again afterwards; a full one takes everything of the cluster and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import (
    CONTAINERS,
    ROOT,
    SECRETS,
    TIER,
    Broker,
    Director,
    MLflow,
    eventually,
    grid_leftovers,
    healthy,
    letters,
    playbook,
    started,
)

STATE = Path("/var/lib/synergos") / TIER
FOREIGN = "synergos-test-foreign"


@pytest.fixture
def foreign(client: docker.DockerClient) -> Iterator[list[Any]]:
    """A container, a network and a volume that are not the cluster's."""
    image = client.containers.get("sync_director").image.id
    made = [
        client.networks.create(FOREIGN),
        client.volumes.create(FOREIGN),
        client.containers.create(image, name=FOREIGN, network=FOREIGN, volumes={FOREIGN: {"bind": "/data"}}),
    ]
    yield made
    made[2].remove(force=True, v=True)
    made[1].remove()
    made[0].remove()


def test_kept_data_are_there_again(
    client: docker.DockerClient, broker: Broker, director: Director, mlflow: MLflow
) -> None:
    broker.publish("SynMQ_topic_train", "{}")
    told = letters(client, "list")
    jobs, experiments = director.call("GET", "jobs"), mlflow.experiments()
    assert told and jobs and experiments
    done = playbook("teardown", "-e", f"tier={TIER}", "-e", "keep_data=true")
    assert done.rc == 0, done.output
    assert not started(client)

    began = time.monotonic()
    back = playbook("syncluster")
    assert back.rc == 0, back.output
    assert eventually(lambda: healthy(client, CONTAINERS))
    seconds = time.monotonic() - began
    print(f"{len(CONTAINERS)} containers healthy from images, and configured, in {seconds:.0f} s")
    assert seconds < 120
    assert letters(client, "list") == told
    assert director.call("GET", "jobs") == jobs
    assert mlflow.experiments() == experiments
    again = playbook("syncluster")
    assert again.rc == 0 and again.changed == 0, again.output


def test_teardown_leaves_nothing_and_touches_nothing_else(client: docker.DockerClient, foreign: list[Any]) -> None:
    assert STATE.exists() and SECRETS.exists()
    first = playbook("teardown", "-e", f"tier={TIER}")
    assert first.rc == 0 and first.changed == 1, first.output
    second = playbook("teardown", "-e", f"tier={TIER}")
    assert second.rc == 0 and second.changed == 0, second.output
    assert grid_leftovers(client, TIER) == []
    for folder in (STATE, SECRETS, ROOT / "outputs" / TIER, ROOT / "metadata" / TIER):
        assert not folder.exists()
    for thing in foreign:
        thing.reload()
