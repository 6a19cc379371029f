"""The containers are what the tables and the design promise."""

from __future__ import annotations

import json
import stat

import docker
import pytest
import requests
from conftest import CONTAINERS, SECRETS, SERVICES, TIER, inspect

PORTS = {
    "synp_ttp": {"5000/tcp": "5000", "8020/tcp": "8020"},
    "synp_worker_1": {"5000/tcp": "5001", "8020/tcp": "8021"},
    "synp_worker_2": {"5000/tcp": "5002", "8020/tcp": "8022"},
    "mongo": {},
    "elasticsearch": {},
    "synp_logger": {f"{port}/tcp": str(port) for port in (9000, 9100, 9200, 9300, 9400)},
    "synp_mlops": {"5500/tcp": "5500"},
}
STORES = [("mongo", 27017), ("elasticsearch", 9200), ("elasticsearch", 9300)]
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"


@pytest.mark.parametrize("name", CONTAINERS)
def test_address_and_ports_are_those_of_the_table(client: docker.DockerClient, name: str) -> None:
    found = inspect(client, name)
    assert found["NetworkSettings"]["Networks"][TIER]["IPAddress"] == CONTAINERS[name]
    published = found["HostConfig"]["PortBindings"] or {}
    assert {port: [(b["HostIp"], b["HostPort"]) for b in bindings] for port, bindings in published.items()} == {
        port: [("127.0.0.1", host)] for port, host in PORTS[name].items()
    }


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_confined(client: docker.DockerClient, name: str) -> None:
    host = inspect(client, name)["HostConfig"]
    assert not host["Privileged"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["Memory"] > 0 and host["PidsLimit"] > 0


def test_memory_at_rest(client: docker.DockerClient) -> None:
    """Before anything has run on the grid; page cache that the kernel would give back does not count."""
    used = {}
    for name in CONTAINERS:
        memory = client.containers.get(name).stats(stream=False)["memory_stats"]
        cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
        used[name] = (memory["usage"] - cache) / 2**30
    print({name: f"{share:.2f} GiB" for name, share in used.items()})
    assert sum(used.values()) < 3.5, used


def test_stores_answer_the_logger_and_nobody_else(client: docker.DockerClient) -> None:
    network = client.networks.get(TIER)
    probe = client.containers.run(
        client.containers.get("synp_ttp").image.id,
        ["sleep", "60"],
        entrypoint=[],
        detach=True,
        auto_remove=True,
        network_mode="container:synp_logger",
    )
    try:
        assert network.id
        for host, port in STORES[:2]:
            done = probe.exec_run(["python3", "-c", CONNECT, host, str(port)])
            assert done.exit_code == 0, done.output
    finally:
        probe.remove(force=True)
    for name in (*SERVICES, "synp_mlops"):
        container = client.containers.get(name)
        for host, port in STORES:
            for target in (host, CONTAINERS[host]):
                assert container.exec_run(["python3", "-c", CONNECT, target, str(port)]).exit_code != 0, (name, target)


def test_secrets_are_files_that_nobody_else_reads(client: docker.DockerClient) -> None:
    assert stat.S_IMODE(SECRETS.stat().st_mode) == 0o700
    files = [path for path in SECRETS.iterdir() if path.is_file()]
    assert files
    told = json.dumps([inspect(client, name) for name in CONTAINERS])
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() not in told


@pytest.mark.parametrize("user", ["admin", "root", "graylog"])
@pytest.mark.parametrize(
    "password", ["admin", "root", "graylog", "password", "changeme", "synergos", "", "yabbadabbadoo"]
)
def test_graylog_takes_no_usual_credential(user: str, password: str) -> None:
    answer = requests.get("http://127.0.0.1:9000/api/system", auth=(user, password), timeout=10)
    assert answer.status_code == 401


def test_graylog_shows_nothing_without_a_login() -> None:
    for path in ("system", "streams", "search/universal/relative?query=*&range=60"):
        assert requests.get(f"http://127.0.0.1:9000/api/{path}", timeout=10).status_code == 401
