"""What the scenario's tests share: the tier, one cycle on it, and what stands beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import docker
import pytest

sys.path.append(str(Path(__file__).parents[2]))

from clients import Graylog, MLflow, eventually, secrets
from scenario import (
    FULL,
    PLAYBOOK,
    ROOT,
    Run,
    engine_client,
    grid_containers,
    grid_leftovers,
    inspect,
    memory,
    playbook,
    readme_commands,
    run,
)

__all__ = [
    "FULL",
    "PLAYBOOK",
    "ROOT",
    "Graylog",
    "MLflow",
    "Run",
    "engine_client",
    "eventually",
    "grid_leftovers",
    "inspect",
    "memory",
    "playbook",
    "readme_commands",
    "run",
]

TIER = "synergos_plus"
SERVICES = {"synp_ttp": "172.19.0.2", "synp_worker_1": "172.19.0.3", "synp_worker_2": "172.19.0.4"}
CONTAINERS = {
    **SERVICES,
    "mongo": "172.19.0.8",
    "elasticsearch": "172.19.0.9",
    "synp_logger": "172.19.0.10",
    "synp_mlops": "172.19.0.11",
}
# The name under which each service logs, its stream, and the one under which it tells its system metrics.
LOGGERS = {name: ("TTP_" if name == "synp_ttp" else "WKR_") + name for name in SERVICES}
STREAMS = {"TTP_": "TTP Stream", "WKR_": "Worker Stream", "SYS_": "Sysmetrics Stream"}
SECRETS = secrets(TIER)
TTP = "http://127.0.0.1:5000/ttp"


def started(client: docker.DockerClient) -> dict[str, str]:
    """Return when each container of the grid was started."""
    return grid_containers(client, TIER)


@pytest.fixture(scope="session")
def graylog() -> Graylog:
    return Graylog(TIER)


@pytest.fixture(scope="session")
def mlflow() -> MLflow:
    return MLflow()


@pytest.fixture(scope="session")
def said() -> str:
    """What a user reads after `make synplus`: converge, one federated cycle, status."""
    done = run("make", "synplus")
    assert done.rc == 0, done.output
    return done.output
