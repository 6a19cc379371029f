"""Inventories that cannot work are refused before anything changes, by a sentence that says what is wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import PLAYBOOK, TIER, Run, run, started

FOREIGN_NETWORK = "synergos-test-foreign-subnet"
FOREIGN_SUBNET = "10.214.7.0/24"


def converge(tmp_path: Path, host: str, variables: dict[str, Any]) -> Run:
    """Converge the shipped inventory with `variables` set on one of its hosts."""
    addition = tmp_path / "addition.yml"
    addition.write_text(json.dumps({TIER: {"hosts": {host: variables}}}))
    return run(PLAYBOOK, "playbooks/synbasic.yml", "-i", "inventories/basic/hosts.yml", "-i", str(addition))


W, ENGINE = "synb_worker_2", "synb_engine"
BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    (W, {"synergos_address": "172.18.5.4"}, [W, "172.18.5.4", "172.18.0.0/24"]),
    (W, {"synergos_address": "172.18.0.1"}, [W, "172.18.0.1", "gateway"]),
    (W, {"synergos_address": "172.18.0.0"}, [W, "172.18.0.0", "network"]),
    (W, {"synergos_address": "172.18.0.255"}, [W, "172.18.0.255"]),
    (W, {"synergos_address": "172.18.0.200"}, [W, "172.18.0.200", "172.18.0.128/25"]),
    (W, {"synergos_address": "172.18.0.3"}, [W, "synb_worker_1", "172.18.0.3"]),
    (W, {"synergos_address": "second"}, ["synb_worker_2: address", "IPv4"]),
    (W, {"synergos_engine": "nowhere"}, [W, "nowhere", "synb_engine"]),
    (W, {"worker_image": "workers"}, ["workers", "catalogue"]),
    (W, {"worker_image": "nowhere.example/none:1"}, [W, "nowhere.example/none:1"]),
    (W, {"container_name": "synb_ttp"}, ["synb_ttp", "two definitions"]),
    (W, {"container_name": "no good"}, ["name", "letters, digits"]),
    (W, {"worker_command_port": 5000}, ["5000", "synb_ttp", W]),
    (W, {"worker_command_port": 70000}, [W, "ports[0].host", "65535"]),
    (W, {"worker_comand_port": 5003}, [W, "worker_comand_port", "did you mean worker_command_port"]),
    (W, {"worker_command_port": "many"}, ["worker_command_port", "int"]),
    (W, {"worker_data_scope": "everything"}, ["worker_data_scope", "own, all"]),
    (W, {"worker_data_folder": "data9"}, [W, "data9"]),
    (W, {"synergos_datasets_dir": "/nowhere/at/all"}, [W, "/nowhere/at/all"]),
    (W, {"synergos_datasets_dir": "relative/path"}, [W, "absolute path"]),
    (W, {"worker_memory": "plenty"}, [W, "memory", "512m"]),
    (W, {"worker_log_resolution": "often"}, ["worker_log_resolution", "int"]),
    (W, {"synergos_publish_address": "everywhere"}, [W, "ports[0].address", "IPv4"]),
    (ENGINE, {"synergos_network": {"name": TIER, "subnet": "172.18.0.0"}}, ["172.18.0.0", "subnet"]),
    (ENGINE, {"synergos_network": {"name": TIER, "subnet": FOREIGN_SUBNET}}, [FOREIGN_NETWORK]),
    (ENGINE, {"synergos_images": {"worker": {"image": "nowhere.example/none:1"}}}, ["nowhere.example/none:1"]),
    (ENGINE, {"synergos_images": {"workers": {"image": "a:1"}}}, ["workers", "catalogue"]),
    (ENGINE, {"synergos_images": {"worker": "a:1"}}, ["synergos_images.worker", "{image: <reference>}"]),
]


@pytest.fixture(scope="module")
def foreign_network(client: docker.DockerClient) -> Iterator[None]:
    pool = docker.types.IPAMPool(subnet=FOREIGN_SUBNET)
    network = client.networks.create(FOREIGN_NETWORK, ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    yield
    network.remove()


@pytest.mark.usefixtures("foreign_network")
@pytest.mark.parametrize(("host", "variables", "said"), BAD, ids=lambda value: json.dumps(value)[:60])
def test_refused(
    client: docker.DockerClient, tmp_path: Path, host: str, variables: dict[str, Any], said: list[str]
) -> None:
    before = started(client)
    done = converge(tmp_path, host, variables)
    assert done.rc != 0
    for words in said:
        assert words in done.text, done.output
    assert "Traceback" not in done.output
    assert started(client) == before


def test_a_port_held_by_a_process_is_refused_with_its_name(client: docker.DockerClient, tmp_path: Path) -> None:
    before = started(client)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = converge(tmp_path, W, {"worker_command_port": port})
    assert done.rc != 0
    assert str(port) in done.text and W in done.text
    assert "pytest" in done.text or "python" in done.text, done.output
    assert started(client) == before


def test_a_missing_address_is_named(client: docker.DockerClient, tmp_path: Path) -> None:
    addition = tmp_path / "addition.yml"
    hosts = {"synb_worker_3": {"synergos_participant": "worker_3"}}
    addition.write_text(json.dumps({"synergos_basic_workers": {"hosts": hosts}}))
    before = started(client)
    done = run(PLAYBOOK, "playbooks/synbasic.yml", "-i", "inventories/basic/hosts.yml", "-i", str(addition))
    assert done.rc != 0 and "synb_worker_3" in done.text and "set synergos_address" in done.text
    assert started(client) == before


def test_an_inventory_without_the_tier_is_refused() -> None:
    done = run(PLAYBOOK, "playbooks/synbasic.yml", "-i", "localhost,")
    assert done.rc != 0
    assert "inventories/basic/hosts.yml" in done.text


@pytest.mark.parametrize("name", ["status", "cleanup", "teardown", "demo"])
def test_an_unknown_tier_is_refused(client: docker.DockerClient, name: str) -> None:
    before = started(client)
    done = run(PLAYBOOK, f"playbooks/{name}.yml", "-e", "tier=basic")
    assert done.rc != 0 and "Tiers are named like synergos_basic" in done.text
    assert started(client) == before
