"""Whatever a hand did to a container is named by check mode and put right, and nothing else is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from conftest import ROOT, TIER, playbook, started

VICTIM = "synb_worker_1"
FOLDERS = {"datasets": "examples", "outputs": "outputs", "metadata": "metadata"}


def stop(client: docker.DockerClient) -> None:
    client.containers.get(VICTIM).stop(timeout=10)


def kill(client: docker.DockerClient) -> None:
    client.containers.get(VICTIM).kill()


def edit_memory(client: docker.DockerClient) -> None:
    client.containers.get(VICTIM).update(mem_limit="1g", memswap_limit="2g")


def disconnect(client: docker.DockerClient) -> None:
    client.networks.get(TIER).disconnect(VICTIM, force=True)


def recreate(client: docker.DockerClient) -> None:
    """Make it again by hand as someone would who kept its labels but forgot its limits and its data."""
    old = client.containers.get(VICTIM)
    labels, image = old.labels, old.image.id
    old.remove(force=True)
    client.containers.create(image, name=VICTIM, labels=labels, network=TIER)


@pytest.mark.parametrize("harm", [stop, kill, edit_memory, disconnect, recreate])
def test_drift_is_named_and_repaired(client: docker.DockerClient, harm: Callable[[docker.DockerClient], None]) -> None:
    before = started(client)
    harm(client)
    named = playbook("synbasic", "--check", "--diff")
    assert named.rc == 0, named.output
    assert VICTIM in named.output and named.changed == 1
    repaired = playbook("synbasic")
    assert repaired.rc == 0, repaired.output
    after = started(client)
    assert {name: time for name, time in after.items() if name != VICTIM} == {
        name: time for name, time in before.items() if name != VICTIM
    }
    again = playbook("synbasic")
    assert again.rc == 0 and again.changed == 0, again.output


def test_a_foreign_container_of_the_same_name_is_refused(client: docker.DockerClient, image: str) -> None:
    client.containers.get(VICTIM).remove(force=True)
    foreign = client.containers.create(image, name=VICTIM)
    try:
        done = playbook("synbasic")
        assert done.rc != 0 and VICTIM in done.text
        assert client.containers.get(VICTIM).id == foreign.id
    finally:
        foreign.remove(force=True)
        assert playbook("synbasic").rc == 0


def test_what_leaves_the_inventory_leaves_the_engine(client: docker.DockerClient, tmp_path: Path) -> None:
    before = started(client)
    smaller = tmp_path / "basic"
    shutil.copytree(ROOT / "inventories/basic", smaller)
    hosts = smaller / "hosts.yml"
    lines = hosts.read_text().splitlines(keepends=True)
    hosts.write_text("".join(line for line in lines if "synb_worker_2:" not in line))
    folders = [f"synergos_{name}_dir={ROOT / folder}" for name, folder in FOLDERS.items()]
    gone = playbook("synbasic", "-i", str(hosts), *(option for folder in folders for option in ("-e", folder)))
    assert gone.rc == 0, gone.output
    remaining = {"synb_ttp", "synb_worker_1"}
    assert set(started(client)) == remaining
    back = playbook("synbasic")
    assert back.rc == 0, back.output
    after = started(client)
    assert {name: after[name] for name in remaining} == {name: before[name] for name in remaining}
