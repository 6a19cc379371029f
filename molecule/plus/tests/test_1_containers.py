"""The containers are what the tables and the design promise."""

from __future__ import annotations

import json
import stat
from typing import Any

import docker
import pytest
import requests
from conftest import CONTAINERS, SECRETS, SERVICES, TIER, inspect, memory

PORTS = {
    "synp_ttp": {"5000/tcp": "5000", "8020/tcp": "8020"},
    "synp_worker_1": {"5000/tcp": "5001", "8020/tcp": "8021"},
    "synp_worker_2": {"5000/tcp": "5002", "8020/tcp": "8022"},
    "mongo": {},
    "elasticsearch": {},
    "synp_logger": {f"{port}/tcp": str(port) for port in (9000, 9100, 9200, 9300, 9400)},
    "synp_mlops": {"5500/tcp": "5500"},
}
# MongoDB's message {ping: 1, $db: "admin"}.
PING = bytes.fromhex(
    "33000000 01000000 00000000 dd070000 00000000 001e000000 1070696e670001000000 02246462000600000061646d696e00 00"
)
# A host where one of the logger's databases may be, its port, a request, and what only that database would answer: to
# connect proves nothing where a gateway takes every connection.
STORES = [
    *((host, 27017, PING, b"ok\0") for host in ("mongo", "172.19.0.8", "172.19.1.8")),
    *(
        (host, 9200, b"GET / HTTP/1.0\r\n\r\n", b"cluster_name")
        for host in ("elasticsearch", "172.19.0.9", "172.19.1.9")
    ),
]
ASK = """
import socket, sys
host, port, request, answer = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=3) as connection:
    connection.sendall(bytes.fromhex(request))
    sys.exit(bytes.fromhex(answer) not in connection.recv(4096))
"""


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
    """Before anything has run on the grid."""
    used = memory(client, CONTAINERS)
    print({name: f"{share:.2f} GiB" for name, share in used.items()})
    assert sum(used.values()) < 3.5, used


def test_the_databases_answer_the_logger_and_nobody_else(client: docker.DockerClient) -> None:
    def reached(container: Any) -> set[int]:
        """Return the ports of the databases that answer a container, under whichever name."""
        found = set()
        for host, port, request, answer in STORES:
            asked = container.exec_run(["python3", "-c", ASK, host, str(port), request.hex(), answer.hex()])
            if asked.exit_code == 0:
                found.add(port)
        return found

    # The logger's own image has no Python: this container shares its network.
    image = client.containers.get("synp_ttp").image.id
    neighbour = client.containers.run(
        image, ["sleep", "120"], entrypoint=[], detach=True, network_mode="container:synp_logger"
    )
    try:
        assert reached(neighbour) == {27017, 9200}
    finally:
        neighbour.remove(force=True)
    assert {name: reached(client.containers.get(name)) for name in (*SERVICES, "synp_mlops")} == {
        name: set() for name in (*SERVICES, "synp_mlops")
    }


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
