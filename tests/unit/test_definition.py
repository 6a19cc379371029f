"""Container definitions and network settings: what is accepted, and what each mistake is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.synergos.grid.plugins.module_utils._address import check_addresses, members, parse_network
from ansible_collections.synergos.grid.plugins.module_utils._definition import parse, secret_texts, size

GOOD: dict[str, Any] = {"name": "synb_ttp", "component": "ttp", "image": "ttp", "address": "172.18.0.2"}


def test_a_full_definition_is_typed() -> None:
    definition = {
        **GOOD,
        "command": ["--id", 7],
        "environment": {"A": "x", "N": 3},
        "ports": [{"container": 5000, "host": "15000"}],
        "volumes": [{"type": "bind", "source": "/srv//a/", "target": "/data", "owner": "1000:50"}],
        "files": [{"path": "/etc/a", "content": ""}],
        "health": {"test": ["check", "5000"], "interval": "2.5"},
        "resources": {"memory": "1.5g", "cpus": 1.5, "pids": 10, "shm": "64M"},
        "depends_on": None,
    }
    (container,), problems = parse([definition])
    assert problems == []
    assert container.command == ("--id", "7")
    assert container.environment == {"A": "x", "N": "3"}
    assert str(container.ports[0]) == "127.0.0.1:15000->5000/tcp"
    assert (container.volumes[0].source, container.volumes[0].owner) == ("/srv/a", (1000, 50))
    assert (container.files[0].mode, container.files[0].secret) == (0o444, False)
    assert container.health is not None
    assert (container.health.interval, container.health.retries) == (2.5, 3)
    assert (container.resources.memory, container.resources.shm) == (1610612736, 67108864)
    assert (container.hostname, container.restart, container.depends_on) == ("synb_ttp", "unless-stopped", ())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "container #1: name: is required"),
    (
        {"name": "a b"},
        "container #1: name: expected a container name: two or more letters, digits, '_', '.' or '-', got 'a b'",
    ),
    ({"component": ""}, "component: expected text that is not empty, got ''"),
    ({"image": None}, "image: is required"),
    ({"image": 3}, "image: expected text that is not empty, got 3"),
    ({"address": "172.18.0"}, "address: expected an IPv4 address, got '172.18.0'"),
    ({"address": "172.18.0.300"}, "address: expected an IPv4 address"),
    ({"address": 5}, "address: expected an IPv4 address, got 5"),
    ({"adress": "1.2.3.4"}, "adress: there is no such field; the fields are address, aliases, cap_add"),
    ({"command": "run me"}, "command: expected a list, got 'run me'"),
    ({"command": [["a"]]}, "command: expected a list in which each item is text"),
    ({"environment": ["A=1"]}, "environment: expected a mapping of texts, got a list"),
    ({"environment": {"A": True}}, "environment: expected a mapping in which each value is text (quote it)"),
    ({"ports": {"container": 1}}, "ports: expected a list, got a mapping"),
    ({"ports": ["5000:5000"]}, "ports[0]: expected a mapping, got text"),
    ({"ports": [{"container": 5000}]}, "ports[0].host: is required"),
    ({"ports": [{"container": 5000, "host": 70000}]}, "ports[0].host: expected a port from 1 to 65535, got 70000"),
    ({"ports": [{"container": "http", "host": 80}]}, "ports[0].container: expected a port from 1 to 65535, got 'http'"),
    (
        {"ports": [{"container": 1, "host": 1, "protocol": "icmp"}]},
        "ports[0].protocol: expected tcp or udp, got 'icmp'",
    ),
    ({"ports": [{"container": 1, "host": 1}] * 2}, "ports: 127.0.0.1:1->1/tcp is given twice"),
    (
        {"volumes": [{"source": "/a", "target": "/b"}]},
        "volumes[0].source: expected a volume name (for a folder of the engine",
    ),
    ({"volumes": [{"type": "bind", "source": "a", "target": "/b"}]}, "volumes[0].source: expected an absolute path"),
    ({"volumes": [{"source": "vol", "target": "../b"}]}, "volumes[0].target: expected an absolute path without '..'"),
    (
        {"volumes": [{"source": "vol", "target": "/b", "owner": 1000}]},
        'volumes[0].owner: expected "uid:gid" in numbers',
    ),
    (
        {"volumes": [{"source": "vol", "target": "/b", "match": "*"}]},
        "volumes[0].match: only a bind has folders to match",
    ),
    (
        {"volumes": [{"source": "vol", "target": "/b", "read_only": "yes"}]},
        "volumes[0].read_only: expected true or false",
    ),
    (
        {"volumes": [{"source": "vol", "target": "/b"}, {"source": "other", "target": "/b/"}]},
        "/b is already mounted by volumes",
    ),
    ({"files": [{"path": "/etc/a"}]}, "files[0].content: is required"),
    ({"files": [{"path": "etc/a", "content": ""}]}, "files[0].path: expected an absolute path"),
    ({"files": [{"path": "/etc/a", "content": {"k": 1}}]}, "files[0].content: expected text, got a mapping"),
    ({"files": [{"path": "/etc/a", "content": "", "mode": 444}]}, "files[0].mode: expected a file mode in quotes"),
    ({"files": [{"path": "/t", "content": ""}], "tmpfs": {"/t": ""}}, "tmpfs: /t is already mounted by files"),
    ({"health": {"interval": 3}}, "health.test: is required"),
    ({"health": {"test": "curl x"}}, "health.test: expected a list: the command and its arguments, got 'curl x'"),
    ({"health": {"test": ["a"], "interval": 0}}, "health.interval: expected a number above 0, got 0"),
    ({"health": {"test": ["a"], "retries": 0}}, "health.retries: expected a whole number from 1 on, got 0"),
    ({"health": {"test": ["a"], "every": 1}}, "health.every: there is no such field; the fields are interval, retries"),
    ({"depends_on": "other"}, "depends_on: expected a list, got 'other'"),
    ({"depends_on": ["synb_ttp"]}, "depends_on: the container depends on itself"),
    ({"resources": {"memory": "lots"}}, "resources.memory: expected a size such as 512m or 1g, got 'lots'"),
    ({"resources": {"cpus": -1}}, "resources.cpus: expected a number above 0, got -1"),
    ({"restart": "sometimes"}, "restart: expected no, always, unless-stopped or on-failure[:times], got 'sometimes'"),
    ({"stop_timeout": -1}, "stop_timeout: expected a whole number from 0 on, got -1"),
    ({"labels": {"org.synergos.grid": "x"}}, "labels: expected labels that do not start with org.synergos."),
    ({"ulimits": {"nofile": "many"}}, "ulimits: expected a whole number from -1 on"),
]


@pytest.mark.parametrize(("change", "expected"), BAD, ids=[text for _change, text in BAD])
def test_each_mistake_is_told_with_its_field(change: dict[str, Any], expected: str) -> None:
    containers, problems = parse([{**GOOD, **change}])
    assert not containers
    assert len(problems) == 1
    assert expected in problems[0]
    assert problems[0].startswith("container ")


def test_all_mistakes_are_told_at_once_and_content_never() -> None:
    definitions: list[Any] = [
        {**GOOD, "address": "x", "files": [{"path": "/a", "content": 12345678, "secret": True}]},
        "synb_worker",
        GOOD,
        GOOD,
    ]
    containers, problems = parse(definitions)
    assert len(containers) == 2
    assert "12345678" not in "".join(problems)
    assert "container #2: expected a mapping, got text" in problems
    assert problems[-1].startswith("container synb_ttp: two definitions have this name")


def test_secrets_are_collected_for_blanking_out() -> None:
    files = [
        {"path": "/a", "content": "longsecret\n", "secret": True},
        {"path": "/b", "content": "public text"},
        {"path": "/c", "content": "x", "secret": True},
    ]
    (container,), _problems = parse([{**GOOD, "files": files}])
    assert secret_texts(container.files) == {"longsecret\n", "longsecret"}


def test_sizes() -> None:
    assert [size(text) for text in ("0", "12", "1k", "2M", "1.5g", "3gb", 5)] == [
        0,
        12,
        1024,
        2 << 20,
        3 << 29,
        3 << 30,
        5,
    ]


def test_network_halves() -> None:
    network, problems = parse_network({"name": "n", "subnet": "172.18.0.0/24"})
    assert problems == [] and network
    assert (str(network.gateway), str(network.dynamic)) == ("172.18.0.1", "172.18.0.128/25")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"subnet": "172.18.0.1/24"}, "has host bits set; give an IPv4 network such as"),
        ({"subnet": "nonsense"}, "network n: subnet: "),
        ({"subnet": None}, "network n: subnet: "),
        ({"subnet": "172.18.0.0/30"}, "too small"),
        ({"gateway": "172.18.0.200"}, "gateway 172.18.0.200 must be one of 172.18.0.1 to 172.18.0.127"),
        ({"gateway": "172.19.0.1"}, "must be one of"),
        ({"gateway": "x"}, "gateway: expected an IPv4 address, got 'x'"),
    ],
)
def test_bad_networks(change: dict[str, Any], expected: str) -> None:
    network, (problem,) = parse_network({"name": "n", "subnet": "172.18.0.0/24", **change})
    assert network is None
    assert expected in problem


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("172.18.1.2", "is outside the subnet 172.18.0.0/24"),
        ("172.18.0.0", "is the network's own address"),
        ("172.18.0.255", "is the broadcast address"),
        ("172.18.0.5", "is the gateway"),
        ("172.18.0.128", "is in 172.18.0.128/25, from which Docker hands out addresses"),
        ("172.18.0.2", "is already the address of container synb_ttp"),
    ],
)
def test_addresses_that_cannot_work(last: str, expected: str) -> None:
    network, _problems = parse_network({"name": "n", "subnet": "172.18.0.0/24", "gateway": "172.18.0.5"})
    assert network
    containers, _none = parse([GOOD, {**GOOD, "name": "other", "address": last}])
    (problem,) = check_addresses(members(containers, "n", "n"), network)
    assert problem.startswith(f"container other: address {last} {expected}")
