"""What the scenario's tests share: the user's playbooks, run as a user runs them, and the engine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).resolve().parents[3]
TIER = "synergos_basic"
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
CONTAINERS = {"synb_ttp": "172.18.0.2", "synb_worker_1": "172.18.0.3", "synb_worker_2": "172.18.0.4"}


@dataclass
class Run:
    """A finished command: its exit code and all that it printed."""

    rc: int
    output: str

    @property
    def changed(self) -> int:
        """Sum of the recap's changed counts."""
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.output))

    @property
    def text(self) -> str:
        """The output with line breaks and indentation folded, to look for sentences."""
        return " ".join(self.output.split())


def run(*argv: str, stdin: str = "") -> Run:
    """Run a command in the checkout."""
    done = subprocess.run(
        argv,
        cwd=ROOT,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    return Run(done.returncode, done.stdout)


def playbook(name: str, *options: str) -> Run:
    """Run one of the collection's playbooks."""
    return run(PLAYBOOK, f"playbooks/{name}.yml", *options)


def started(client: docker.DockerClient) -> dict[str, str]:
    """Return when each container of the grid was started."""
    found = client.containers.list(all=True, filters={"label": f"org.synergos.grid={TIER}"})
    return {container.name: container.attrs["State"]["StartedAt"] for container in found}


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """The engine."""
    engine = docker.from_env()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def image(client: docker.DockerClient) -> str:
    """An image that is on the engine anyway, for containers that are not the grid's."""
    return str(client.containers.get("synb_ttp").image.id)


def inspect(client: docker.DockerClient, name: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    return client.containers.get(name).attrs  # type: ignore[no-any-return]
