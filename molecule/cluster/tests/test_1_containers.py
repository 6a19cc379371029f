"""The containers are what the tables and the design promise."""

from __future__ import annotations

import json
import stat

import docker
import pytest
from conftest import CONTAINERS, SECRETS, TIER, inspect, memory

PORTS = {
    "sync_director": {5000: 5000},
    "sync_ttp_1": {5000: 6000, 8020: 9020},
    "sync_worker_1_n1": {5000: 5001, 8020: 8021},
    "sync_worker_2_n1": {5000: 5002, 8020: 8022},
    "sync_ttp_2": {5000: 7000, 8020: 10020},
    "sync_worker_1_n2": {5000: 5003, 8020: 8023},
    "sync_worker_2_n2": {5000: 5004, 8020: 8024},
    "mongo": {},
    "elasticsearch": {},
    "sync_logger": {port: port for port in (9000, 9100, 9200, 9300, 9400)},
    "sync_mlops": {5500: 5500},
    "sync_mq": {5672: 5672, 15672: 15672},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_address_and_ports_are_those_of_the_table(client: docker.DockerClient, name: str) -> None:
    found = inspect(client, name)
    assert found["State"]["Health"]["Status"] == "healthy"
    assert found["NetworkSettings"]["Networks"][TIER]["IPAddress"] == CONTAINERS[name]
    published = found["HostConfig"]["PortBindings"] or {}
    assert {port: [(b["HostIp"], b["HostPort"]) for b in bindings] for port, bindings in published.items()} == {
        f"{port}/tcp": [("127.0.0.1", str(host))] for port, host in PORTS[name].items()
    }


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_confined(client: docker.DockerClient, name: str) -> None:
    found = inspect(client, name)
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert found["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert not host["Privileged"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["Memory"] > 0 and host["PidsLimit"] > 0


def test_memory_at_rest(client: docker.DockerClient) -> None:
    """Before anything has run on the grid."""
    used = memory(client, CONTAINERS)
    print({name: f"{share:.2f} GiB" for name, share in used.items()}, f"{sum(used.values()):.2f} GiB in all")
    assert sum(used.values()) < 6, used


def test_secrets_are_files_that_nobody_else_reads(client: docker.DockerClient) -> None:
    assert stat.S_IMODE(SECRETS.stat().st_mode) == 0o700
    files = {path.name: path for path in SECRETS.iterdir() if path.is_file()}
    assert set(files) >= {"mq_admin", "mq_health", "mq_sync_director", "mq_sync_ttp_1", "mq_sync_ttp_2"}
    told = json.dumps([inspect(client, name) for name in CONTAINERS])
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() not in told
