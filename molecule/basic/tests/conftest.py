"""What the scenario's tests share: the tier, and what all scenarios have in common."""

from __future__ import annotations

import sys
from pathlib import Path

import docker
import pytest

sys.path.append(str(Path(__file__).parents[2]))

from scenario import (
    PLAYBOOK,
    README,
    ROOT,
    Run,
    engine_client,
    grid_containers,
    grid_leftovers,
    inspect,
    playbook,
    readme_commands,
    run,
)

__all__ = [
    "CONTAINERS",
    "PLAYBOOK",
    "README",
    "ROOT",
    "TIER",
    "Run",
    "engine_client",
    "grid_containers",
    "grid_leftovers",
    "inspect",
    "playbook",
    "readme_commands",
    "run",
    "started",
]

TIER = "synergos_basic"
CONTAINERS = {"synb_ttp": "172.18.0.2", "synb_worker_1": "172.18.0.3", "synb_worker_2": "172.18.0.4"}


def started(client: docker.DockerClient) -> dict[str, str]:
    """Return when each container of the grid was started."""
    return grid_containers(client, TIER)


@pytest.fixture(scope="session")
def image(client: docker.DockerClient) -> str:
    """An image that is on the engine anyway, for containers that are not the grid's."""
    return str(client.containers.get("synb_ttp").image.id)
