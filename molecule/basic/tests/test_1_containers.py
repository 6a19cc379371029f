"""The containers are what the tables and the design promise."""

from __future__ import annotations

import docker
import pytest
import requests
from conftest import CONTAINERS, TIER, inspect

PORTS = {
    "synb_ttp": {"5000/tcp": "5000", "8020/tcp": "8020"},
    "synb_worker_1": {"5000/tcp": "5001", "8020/tcp": "8021"},
    "synb_worker_2": {"5000/tcp": "5002", "8020/tcp": "8022"},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_address_and_ports_are_those_of_the_table(client: docker.DockerClient, name: str) -> None:
    found = inspect(client, name)
    assert found["NetworkSettings"]["Networks"][TIER]["IPAddress"] == CONTAINERS[name]
    published = found["HostConfig"]["PortBindings"]
    assert {port: [(b["HostIp"], b["HostPort"]) for b in bindings] for port, bindings in published.items()} == {
        port: [("127.0.0.1", host)] for port, host in PORTS[name].items()
    }


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_confined(client: docker.DockerClient, name: str) -> None:
    host = inspect(client, name)["HostConfig"]
    assert host["ReadonlyRootfs"] and not host["Privileged"]
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert host["Memory"] > 0 and host["PidsLimit"] > 0
    assert client.containers.get(name).exec_run(["id", "-u"]).output.strip() == b"1000"


@pytest.mark.parametrize("name", CONTAINERS)
def test_services_answer_on_their_published_ports(name: str) -> None:
    for port in PORTS[name].values():
        answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_a_worker_sees_its_own_participants_data_only(client: docker.DockerClient) -> None:
    for number in (1, 2):
        worker = client.containers.get(f"synb_worker_{number}")
        listing = worker.exec_run(["sh", "-c", "ls -d /worker/data/*/dataset/*"])
        folders = listing.output.decode().split()
        assert folders and {folder.rsplit("/", 1)[1] for folder in folders} == {f"data{number}"}


def test_data_is_read_only_for_the_worker(client: docker.DockerClient) -> None:
    mounts = [m for m in inspect(client, "synb_worker_1")["Mounts"] if m["Destination"].startswith("/worker/data")]
    assert mounts and not any(mount["RW"] for mount in mounts)
