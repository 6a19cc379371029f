from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.synergos.grid.plugins.filter.collaboration import collaboration
from ansible_collections.synergos.grid.plugins.filter.endpoint import endpoint
from ansible_collections.synergos.grid.plugins.filter.engine_address import engine_address
from ansible_collections.synergos.grid.plugins.filter.pages import pages
from ansible_collections.synergos.grid.plugins.filter.participants import participants
from ansible_collections.synergos.grid.plugins.filter.published import published
from ansible_collections.synergos.grid.plugins.filter.query import query
from ansible_collections.synergos.grid.plugins.filter.table import table
from ansible_collections.synergos.grid.plugins.plugin_utils._run import run_id

PORTS = [{"container": 8020, "host": 8021, "address": "0.0.0.0"}]


def host(name: str, engine: str = "here", run: str | None = None, **container: Any) -> dict[str, Any]:
    container = {"name": name, "address": "172.18.0.3", "ports": PORTS, **container}
    return {
        "synergos_engine": engine,
        "ansible_facts": {"synergos_component": {"run": run or run_id(), "container": container}},
    }


def test_published_sorts_what_has_and_what_has_not_published() -> None:
    hostvars = {
        "here": {"synergos_engine": "here"},
        "done": host("done", image="worker"),
        "too": host("too", image="worker"),
        "third": host("third", image="ttp"),
        "silent": {"synergos_engine": "here", "container_name": "quiet"},
        "earlier": host("earlier", run="another run"),
        "elsewhere": host("elsewhere", engine="there"),
    }
    found = published(list(hostvars), hostvars, "here")
    assert [container["name"] for container in found["containers"]] == ["done", "too", "third"]
    assert found["images"] == ["ttp", "worker"]
    assert found["missing"] == ["silent", "earlier"]
    assert found["names"] == ["done", "too", "third", "quiet", "earlier"]


def test_endpoint_on_the_same_engine_is_the_fixed_address() -> None:
    assert endpoint("w", {"w": host("w")}, 8020, "here") == {"host": "172.18.0.3", "port": 8020}


def test_endpoint_from_another_engine_is_the_published_port() -> None:
    hostvars = {"w": host("w"), "here": {"ansible_host": "192.0.2.7"}}
    assert endpoint("w", hostvars, 8020, "there") == {"host": "192.0.2.7", "port": 8021}


def test_endpoint_refuses_what_cannot_be_reached() -> None:
    inner = [{"container": 8020, "host": 8021}]
    hostvars: dict[str, Any] = {"w": host("w"), "inner": host("inner", ports=inner), "here": {}, "silent": {}}
    with pytest.raises(AnsibleFilterError, match="does not publish port 5000"):
        endpoint("w", hostvars, 5000, "there")
    with pytest.raises(AnsibleFilterError, match=r"inner publishes port 8020 on 127\.0\.0\.1, where there cannot"):
        endpoint("inner", hostvars, 8020, "there")
    with pytest.raises(AnsibleFilterError, match="has not published"):
        endpoint("silent", hostvars, 5000, "here")


def test_endpoint_knows_who_is_not_in_this_run_by_the_inventory() -> None:
    hostvars = {"silent": {"synergos_engine": "here", "synergos_address": "172.18.0.9"}, "here": {}}
    assert endpoint("silent", hostvars, 9300, "here") == {"host": "172.18.0.9", "port": 9300}
    with pytest.raises(AnsibleFilterError, match="has not published"):
        endpoint("silent", hostvars, 9300, "there")


def test_endpoint_on_a_further_network_is_for_the_same_engine_only() -> None:
    hostvars = {"w": host("w", networks=[{"name": "inner", "address": "10.1.0.3"}]), "here": {}}
    assert endpoint("w", hostvars, 27017, "here", "inner") == {"host": "10.1.0.3", "port": 27017}
    for engine, network in (("there", "inner"), ("here", "other")):
        with pytest.raises(AnsibleFilterError, match=f"w is not on network {network} of {engine}"):
            endpoint("w", hostvars, 27017, engine, network)


def test_other_machines_reach_an_engine_by_its_own_address_first() -> None:
    own = {"synergos_engine_address": "192.0.2.7", "ansible_host": "there.example"}
    hostvars: dict[str, Any] = {"one": own, "two": {"ansible_host": "there.example"}, "three": {}}
    assert [engine_address(engine, hostvars) for engine in hostvars] == ["192.0.2.7", "there.example", "three"]


def worker(name: str, grid: int, engine: str = "here", number: int = 1) -> dict[str, Any]:
    """A worker of grid `grid` at 172.20.<participant>.<grid>, published at 51<grid> and 81<grid>."""
    published = {5000: 5100 + grid, 8020: 8100 + grid}
    ports = [{"container": inner, "host": outer, "address": "0.0.0.0"} for inner, outer in published.items()]
    labels = {"participant": name, "data": f"data{number}", "grid_index": str(grid)}
    return host(f"{name}_n{grid}", engine, address=f"172.20.{number}.{grid}", ports=ports, labels=labels)


def test_workers_of_a_participant_are_its_nodes_in_the_order_of_grids() -> None:
    hostvars = {
        f"{name}_{grid}": worker(name, grid, number=number)
        for number, name in ((2, "b"), (1, "a"))
        for grid in (10, 2, 0)
    }
    found = participants(list(hostvars), hostvars, ["here", "here"])
    assert [(each["participant_id"], each["role"], each["data"]) for each in found] == [
        ("b", "host", "data2"),
        ("a", "guest", "data1"),
    ]
    for number, participant in ((2, found[0]), (1, found[1])):
        assert participant["nodes"] == [
            {"host": f"172.20.{number}.{grid}", "port": 8020, "f_port": 5000} for grid in (0, 2, 10)
        ]
        assert {key: participant[key] for key in ("host", "port", "f_port")} == participant["nodes"][0]


def test_nodes_are_told_as_every_ttp_reaches_them() -> None:
    hostvars = {"a_0": worker("a", 0), "a_1": worker("a", 1, engine="there")}
    hostvars |= {"here": {"ansible_host": "192.0.2.7"}, "there": {"ansible_host": "192.0.2.8"}}
    (found,) = participants(["a_0", "a_1"], hostvars, ["here", "there"])
    assert found["nodes"] == [
        {"host": "192.0.2.7", "port": 8100, "f_port": 5100},
        {"host": "192.0.2.8", "port": 8101, "f_port": 5101},
    ]


def test_participants_are_host_and_guests() -> None:
    hostvars = {
        f"w{n}": host(f"w{n}", address=f"172.18.0.{n}", labels={"participant": f"worker_{n}", "data": f"data{n}"})
        for n in (3, 4)
    }
    first, second = participants(["w3", "w4"], hostvars, "here")
    assert first == {
        "participant_id": "worker_3",
        "role": "host",
        "host": "172.18.0.3",
        "port": 8020,
        "f_port": 5000,
        "data": "data3",
    }
    assert (second["role"], second["host"]) == ("guest", "172.18.0.4")


def test_collaboration_holds_the_components_that_the_grid_has() -> None:
    inner = (9000, 9100, 9200, 9300, 9400)
    ports = [{"container": port, "host": port + 1000, "address": "0.0.0.0"} for port in inner]
    hostvars = {
        "here": {"ansible_host": "192.0.2.7"},
        "silent": {},
        "ttp": host("ttp", component="ttp"),
        "logger": host("logger", component="logger", address="172.19.0.10", ports=ports),
        "mlops": host("mlops", component="mlops", address="172.19.0.11"),
        "mq": host("mq", component="mq", address="172.19.0.12"),
    }
    found = collaboration(list(hostvars), hostvars, "here")
    assert found == {
        "logs": {
            "host": "172.19.0.10",
            "ports": {"main": 9000, "ui": 9000, "sysmetrics": 9100, "director": 9200, "ttp": 9300, "worker": 9400},
            "secure": False,
        },
        "mlops": {"host": "172.19.0.11", "ports": {"main": 5500, "ui": 5500}, "secure": False},
        "mq": {"host": "172.19.0.12", "ports": {"main": 5672, "ui": 15672}, "secure": False},
    }
    assert collaboration(["here", "ttp"], hostvars, "here") == {}
    elsewhere = collaboration(["logger"], hostvars, "there")["logs"]
    assert (elsewhere["host"], elsewhere["ports"]["worker"]) == ("192.0.2.7", 10400)


def test_pages_are_where_a_browser_gets() -> None:
    def ports(port: int, address: str) -> list[dict[str, Any]]:
        return [
            {"container": 8020, "host": 8020, "address": address},
            {"container": port, "host": port + 1000, "address": address},
        ]

    hostvars = {
        "here": {},
        "there": {"ansible_host": "192.0.2.7"},
        "silent": {},
        "worker": host("worker", component="worker", ports=ports(5000, "127.0.0.1")),
        "ttp": host("ttp", component="ttp", ports=ports(5000, "127.0.0.1")),
        "logger": host("logger", component="logger", ports=ports(9000, "0.0.0.0")),
        "mlops": host("mlops", component="mlops", engine="there", ports=ports(5500, "0.0.0.0")),
        "mq": host("mq", component="mq", ports=ports(15672, "127.0.0.1")),
    }
    assert pages(list(hostvars), hostvars) == {
        "ttp": "http://127.0.0.1:6000",
        "logs": "http://127.0.0.1:10000/search?rangetype=relative&relative=86400&q=",
        "mlops": "http://192.0.2.7:6500",
        "mq": "http://127.0.0.1:16672",
    }
    hostvars["zdirector"] = host("zdirector", component="director", ports=[{"container": 5000, "host": 5000}])
    assert pages(list(hostvars), hostvars)["ttp"] == "http://127.0.0.1:5000", "in a cluster one talks to the Director"


def test_table_aligns_and_leaves_missing_fields_empty() -> None:
    assert table([{"name": "a", "health": "healthy"}, {"name": "long", "health": None}], ["name", "health"]) == (
        "NAME  HEALTH\na     healthy\nlong"
    )


def test_query_answers_and_explains() -> None:
    assert query({"c": [{"n": "a", "h": "x"}, {"n": "b", "h": "y"}]}, "c[?h!=`x`].n") == ["b"]
    with pytest.raises(AnsibleFilterError, match="no usable JMESPath"):
        query({}, "c[")
