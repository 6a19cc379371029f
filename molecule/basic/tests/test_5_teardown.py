"""Teardown takes everything of the grid and nothing else."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest
from conftest import CONTAINERS, ROOT, TIER, grid_leftovers, playbook, started

STATE = Path("/var/lib/synergos") / TIER
FOREIGN = "synergos-test-foreign"


@pytest.fixture
def foreign(client: docker.DockerClient, image: str):
    """A container, a network and a volume that are not the grid's."""
    made = [
        client.networks.create(FOREIGN),
        client.volumes.create(FOREIGN),
        client.containers.create(image, name=FOREIGN, network=FOREIGN, volumes={FOREIGN: {"bind": "/data"}}),
    ]
    yield made
    made[2].remove(force=True, v=True)
    made[1].remove()
    made[0].remove()


def test_kept_data_serves_the_next_converge(client: docker.DockerClient) -> None:
    record = ROOT / "metadata" / TIER / "synb_ttp"
    done = playbook("teardown", "-e", "keep_data=true")
    assert done.rc == 0, done.output
    assert not started(client) and list(record.iterdir())
    back = playbook("synbasic")
    assert back.rc == 0, back.output
    assert set(started(client)) == set(CONTAINERS)


def test_teardown_leaves_nothing_and_touches_nothing_else(client: docker.DockerClient, foreign: list) -> None:
    assert STATE.exists()
    first = playbook("teardown")
    assert first.rc == 0 and first.changed == 1, first.output
    second = playbook("teardown")
    assert second.rc == 0 and second.changed == 0, second.output
    assert grid_leftovers(client, TIER) == []
    assert not STATE.exists()
    assert not (ROOT / "outputs" / TIER).exists() and not (ROOT / "metadata" / TIER).exists()
    for thing in foreign:
        thing.reload()


def test_status_says_that_no_grid_is_up() -> None:
    done = playbook("status")
    assert done.rc != 0
    assert "No grid of this inventory is up" in done.text
