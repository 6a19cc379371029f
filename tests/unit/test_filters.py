from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.synergos.grid.plugins.filter.endpoint import endpoint
from ansible_collections.synergos.grid.plugins.filter.participants import participants
from ansible_collections.synergos.grid.plugins.filter.published import published
from ansible_collections.synergos.grid.plugins.filter.query import query
from ansible_collections.synergos.grid.plugins.filter.table import table
from ansible_collections.synergos.grid.plugins.plugin_utils._run import run_id


def host(name: str, engine: str = "here", run: str | None = None, **container: Any) -> dict[str, Any]:
    container = {"name": name, "address": "172.18.0.3", "ports": [{"container": 8020, "host": 8021}], **container}
    return {
        "synergos_engine": engine,
        "ansible_facts": {"synergos_component": {"run": run or run_id(), "container": container}},
    }


def test_published_sorts_what_has_and_what_has_not_published() -> None:
    hostvars = {
        "here": {"synergos_engine": "here"},
        "done": host("done"),
        "silent": {"synergos_engine": "here", "container_name": "quiet"},
        "earlier": host("earlier", run="another run"),
        "elsewhere": host("elsewhere", engine="there"),
    }
    found = published(list(hostvars), hostvars, "here")
    assert [container["name"] for container in found["containers"]] == ["done"]
    assert found["missing"] == ["silent", "earlier"]
    assert found["names"] == ["done", "quiet", "earlier"]


def test_endpoint_on_the_same_engine_is_the_fixed_address() -> None:
    assert endpoint("w", {"w": host("w")}, 8020, "here") == {"host": "172.18.0.3", "port": 8020}


def test_endpoint_from_another_engine_is_the_published_port() -> None:
    hostvars = {"w": host("w"), "here": {"ansible_host": "192.0.2.7"}}
    assert endpoint("w", hostvars, 8020, "there") == {"host": "192.0.2.7", "port": 8021}


def test_endpoint_refuses_what_cannot_be_reached() -> None:
    hostvars = {"w": host("w"), "here": {}, "silent": {}}
    with pytest.raises(AnsibleFilterError, match="does not publish port 5000"):
        endpoint("w", hostvars, 5000, "there")
    with pytest.raises(AnsibleFilterError, match="has not published"):
        endpoint("silent", hostvars, 5000, "here")


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


def test_table_aligns_and_leaves_missing_fields_empty() -> None:
    assert table([{"name": "a", "health": "healthy"}, {"name": "long", "health": None}], ["name", "health"]) == (
        "NAME  HEALTH\na     healthy\nlong"
    )


def test_query_answers_and_explains() -> None:
    assert query({"c": [{"n": "a", "h": "x"}, {"n": "b", "h": "y"}]}, "c[?h!=`x`].n") == ["b"]
    with pytest.raises(AnsibleFilterError, match="no usable JMESPath"):
        query({}, "c[")
