"""What the tests of all scenarios share: the user's playbooks, run as a user runs them, and the engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
# Set by `make test-full`: every fault, every notebook.
FULL = bool(os.environ.get("SYNERGOS_FULL"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0"},  # Molecule sets it
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


def readme_commands(tier: str) -> list[str]:
    """Return the shell commands of the README in their order that name a tier, or those of Basic, which name none."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    # `make test` is this very run.
    return [line for line in lines if not line.startswith("make test") and _tier(line) == tier]


def _tier(line: str) -> str:
    return next((tier for tier in ("plus", "cluster") if tier in line), "basic")


def grid_containers(client: docker.DockerClient, tier: str) -> dict[str, str]:
    """Return when each container of a grid was started."""
    found = client.containers.list(all=True, filters={"label": f"org.synergos.grid={tier}"})
    return {container.name: container.attrs["State"]["StartedAt"] for container in found}


def grid_leftovers(client: docker.DockerClient, tier: str) -> list[str]:
    """Return the names of everything on the engine that is labelled as the grid's."""
    label = {"label": f"org.synergos.grid={tier}"}
    return [
        *(container.name for container in client.containers.list(all=True, filters=label)),
        *(network.name for network in client.networks.list(filters=label)),
        *(volume.name for volume in client.volumes.list(filters=label)),
    ]


def inspect(client: docker.DockerClient, name: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    return client.containers.get(name).attrs  # type: ignore[no-any-return]


def memory(client: docker.DockerClient, names: Iterable[str]) -> dict[str, float]:
    """Return the GiB that each container uses; page cache that the kernel would give back does not count."""

    def used(name: str) -> float:
        found = client.containers.get(name).stats(stream=False)["memory_stats"]
        cache = found["stats"].get("total_inactive_file", found["stats"].get("inactive_file", 0))
        return float(found["usage"] - cache) / 2**30

    # The engine takes a second for each.
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(used, names), strict=True))


@pytest.fixture(name="client", scope="session")
def engine_client() -> Iterator[docker.DockerClient]:
    """The engine."""
    engine = docker.from_env()
    yield engine
    engine.close()
