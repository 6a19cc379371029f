"""Where the components of a tier are told to find each other, as the user's inventories and playbooks say it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.synergos.grid.plugins.filter.participants import participants

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
SHOW = """
- ansible.builtin.import_playbook: {root}/playbooks/endpoints.yml
- hosts: all:!engines
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "published {{{{ ansible_facts.synergos_component.container | to_json }}}} end"
      when: ansible_facts.synergos_component is defined
"""
SECOND = {"synp_engine_2": {"ansible_connection": "local", "synergos_engine_address": "192.0.2.20"}}
LOGGER = ("synp_mongo", "synp_elasticsearch", "synp_logger")


def published(tmp_path: Path, tier: str, addition: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Publish a tier of the shipped inventories, with an addition to them; return the definitions and what was told."""
    (tmp_path / "show.yml").write_text(SHOW.format(root=ROOT))
    (tmp_path / "addition.yml").write_text(json.dumps(addition))
    inventories = [f"-i={path}" for path in (*sorted(ROOT.glob("inventories/*/hosts.yml")), tmp_path / "addition.yml")]
    done = subprocess.run(
        [PLAYBOOK, *inventories, str(tmp_path / "show.yml"), "-e", f"tier={tier}"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    shown = [line for line in done.stdout.splitlines() if '"msg": "published ' in line]
    containers = [json.loads(json.loads(line.partition(": ")[2])[len("published ") : -len(" end")]) for line in shown]
    return {container["name"]: container for container in containers}, " ".join((done.stdout + done.stderr).split())


def option(container: dict[str, Any], name: str, count: int = 1) -> list[str]:
    position = container["command"].index(name) + 1
    return list(container["command"][position : position + count])


def test_basic_has_no_logger_and_no_tracking(tmp_path: Path) -> None:
    containers, told = published(tmp_path, "synergos_basic", {})
    assert set(containers) == {"synb_ttp", "synb_worker_1", "synb_worker_2"}, told
    for container in containers.values():
        assert option(container, "--logging_variant") == ["basic"]
        assert not container.get("environment")


def test_on_one_engine_plus_uses_fixed_addresses(tmp_path: Path) -> None:
    containers, told = published(tmp_path, "synergos_plus", {})
    assert len(containers) == 7, told
    for name, port in (("synp_ttp", "9300"), ("synp_worker_1", "9400"), ("synp_worker_2", "9400")):
        assert option(containers[name], "--logging_variant", 3) == ["graylog", "172.19.0.10", port]
        assert option(containers[name], "--sysmetrics_port") == ["9100"]
    assert containers["synp_ttp"]["environment"]["MLFLOW_TRACKING_URI"] == "http://172.19.0.11:5500"
    logger = containers["synp_logger"]
    assert logger["environment"]["GRAYLOG_MONGODB_URI"] == "mongodb://172.19.1.8:27017/graylog"
    assert logger["environment"]["GRAYLOG_ELASTICSEARCH_HOSTS"] == "http://172.19.1.9:9200"
    assert {name: c.get("ports", []) for name, c in containers.items() if name in ("mongo", "elasticsearch")} == {
        "mongo": [],
        "elasticsearch": [],
    }


def test_from_another_engine_they_are_found_at_its_published_ports(tmp_path: Path) -> None:
    hosts = {name: {"synergos_engine": "synp_engine_2"} for name in (*LOGGER, "synp_mlops")}
    tier = {"vars": {"synergos_port_offset": 10000, "synergos_publish_address": "0.0.0.0"}, "hosts": hosts}
    engines = {"hosts": SECOND}
    containers, told = published(tmp_path, "synergos_plus", {"synergos_plus": tier, "synergos_plus_engines": engines})
    assert len(containers) == 7, told
    for name, port in (("synp_ttp", "19300"), ("synp_worker_1", "19400")):
        assert option(containers[name], "--logging_variant", 3) == ["graylog", "192.0.2.20", port]
        assert option(containers[name], "--sysmetrics_port") == ["19100"]
    assert containers["synp_ttp"]["environment"]["MLFLOW_TRACKING_URI"] == "http://192.0.2.20:15500"
    assert "192.0.2.20:*" in containers["synp_mlops"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    environment = containers["synp_logger"]["environment"]
    assert environment["GRAYLOG_HTTP_EXTERNAL_URI"] == "http://192.0.2.20:19000/"
    assert environment["GRAYLOG_MONGODB_URI"] == "mongodb://172.19.1.8:27017/graylog"


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ({"synp_mongo": {"synergos_engine": "synp_engine_2"}}, "synp_mongo is not on network synergos_plus_logger of"),
        ({"synp_ttp": {"ttp_logger": "nowhere"}}, "nowhere is no host of the inventory"),
        ({"synp_logger": {"logger_images": "latest"}}, "value of logger_images must be one of: built, official"),
    ],
)
def test_what_cannot_be_reached_is_refused(tmp_path: Path, hosts: dict[str, Any], expected: str) -> None:
    addition = {"synergos_plus": {"hosts": hosts}, "synergos_plus_engines": {"hosts": SECOND}}
    _containers, told = published(tmp_path, "synergos_plus", addition)
    assert expected in told


# Name, further name, address, published ports of each container, as the original's table has them.
CLUSTER = [
    ("sync_director", "synergos_director", 2, {5000: 5000}),
    ("sync_ttp_1", "synergos_ttp_1", 3, {5000: 6000, 8020: 9020}),
    ("sync_worker_1_n1", "synergos_worker_1_node_1", 4, {5000: 5001, 8020: 8021}),
    ("sync_worker_2_n1", "synergos_worker_2_node_1", 5, {5000: 5002, 8020: 8022}),
    ("sync_ttp_2", "synergos_ttp_2", 6, {5000: 7000, 8020: 10020}),
    ("sync_worker_1_n2", "synergos_worker_1_node_2", 7, {5000: 5003, 8020: 8023}),
    ("sync_worker_2_n2", "synergos_worker_2_node_2", 8, {5000: 5004, 8020: 8024}),
    ("mongo", None, 12, {}),
    ("elasticsearch", None, 13, {}),
    ("sync_logger", "synergos_logger", 14, {port: port for port in (9000, 9100, 9200, 9300, 9400)}),
    ("sync_mlops", "synergos_mlops", 15, {5500: 5500}),
    ("sync_mq", "synergos_mq", 16, {5672: 5672, 15672: 15672}),
]


def secret_of(container: dict[str, Any]) -> tuple[str, str]:
    """What a container reads about its user of the broker: the line, and the name of the secret in it."""
    (file,) = container["files"]
    assert file["path"] == "/run/secrets/queue"
    return file["content"], file["secrets"]["QUEUE"]["name"]


def test_a_cluster_is_the_originals_table(tmp_path: Path) -> None:
    containers, told = published(tmp_path, "synergos_cluster", {})
    assert set(containers) == {name for name, *_ in CLUSTER}, told
    for name, alias, number, ports in CLUSTER:
        container = containers[name]
        assert container["address"] == f"172.20.0.{number}"
        assert container.get("aliases", []) == ([alias] if alias else []), name
        assert {each["container"]: each["host"] for each in container.get("ports", [])} == ports, name
        assert {each["address"] for each in container.get("ports", [])} <= {"127.0.0.1"}


def test_on_one_engine_a_cluster_uses_fixed_addresses(tmp_path: Path) -> None:
    containers, told = published(tmp_path, "synergos_cluster", {})
    assert len(containers) == 12, told
    director, ttps = containers["sync_director"], [containers["sync_ttp_1"], containers["sync_ttp_2"]]
    for container, port in ((director, "9200"), (ttps[0], "9300"), (containers["sync_worker_2_n2"], "9400")):
        assert option(container, "--logging_variant", 3) == ["graylog", "172.20.0.14", port]
        assert option(container, "--sysmetrics_port") == ["9100"]
    for container in (director, *ttps):
        assert option(container, "--queue", 3) == ["rabbitmq", "172.20.0.16", "5672"]
        assert secret_of(container) == (f"{container['name']}:%(QUEUE)s", f"mq_{container['name']}")
    assert [option(container, "--grid") for container in ttps] == [["0"], ["1"]]
    assert director["environment"]["MLFLOW_TRACKING_URI"] == "http://172.20.0.15:5500"
    assert set(json.loads(director["environment"]["SYNERGOS_IMAGES"])) == {"director", "ttp", "worker"}
    # Only the Director tells MLflow, and on one network each finds its own address.
    assert [container["environment"] for container in ttps] == [{}, {}]
    assert "SYNERGOS_ARTEFACTS_URL" not in director["environment"]
    folders = [{each["source"] for each in container["volumes"]} for container in (director, *ttps)]
    assert len(set.union(*folders)) == 6, "nobody shares a folder"


def test_grids_of_a_cluster_on_other_engines_find_the_director_and_are_found(tmp_path: Path) -> None:
    second = ("sync_ttp_2", "sync_worker_1_n2", "sync_worker_2_n2")
    tier = {
        "vars": {"synergos_port_offset": 10000, "synergos_publish_address": "0.0.0.0"},
        "hosts": {name: {"synergos_engine": "sync_engine_2"} for name in second},
    }
    engines = {
        "sync_engine": {"synergos_engine_address": "192.0.2.10"},
        "sync_engine_2": {"ansible_connection": "local", "synergos_engine_address": "192.0.2.20"},
    }
    addition = {"synergos_cluster": tier, "synergos_cluster_engines": {"hosts": engines}}
    containers, told = published(tmp_path, "synergos_cluster", addition)
    assert len(containers) == 12, told
    near, far = containers["sync_ttp_1"], containers["sync_ttp_2"]
    assert containers["sync_director"]["environment"]["SYNERGOS_ARTEFACTS_URL"] == "http://192.0.2.10:15000"
    assert far["environment"] == {"SYNERGOS_ARTEFACTS_URL": "http://192.0.2.20:20020"}
    assert near["environment"] == {}
    assert option(near, "--queue", 3) == ["rabbitmq", "172.20.0.16", "5672"]
    assert option(far, "--queue", 3) == ["rabbitmq", "192.0.2.10", "15672"]
    assert option(far, "--logging_variant", 3) == ["graylog", "192.0.2.10", "19300"]


def test_a_third_grid_is_three_lines_of_inventory(tmp_path: Path) -> None:
    def line(number: int, **variables: Any) -> dict[str, Any]:
        return {"synergos_address": f"172.20.0.{number}", "synergos_grid_index": 2, **variables}

    workers = {
        f"sync_worker_{number}_n3": line(
            17 + number,
            synergos_participant=f"worker_{number}",
            worker_command_port=5004 + number,
            worker_data_port=8024 + number,
        )
        for number in (1, 2)
    }
    addition = {
        "synergos_cluster_ttps": {"hosts": {"sync_ttp_3": line(17, ttp_command_port=8000, ttp_data_port=11020)}},
        "synergos_cluster_workers": {"hosts": workers},
    }
    containers, told = published(tmp_path, "synergos_cluster", addition)
    assert set(containers) == {name for name, *_ in CLUSTER} | {"sync_ttp_3", *workers}, told
    third = containers["sync_ttp_3"]
    assert (option(third, "--grid"), third["aliases"]) == (["2"], ["synergos_ttp_3"])
    assert secret_of(third) == ("sync_ttp_3:%(QUEUE)s", "mq_sync_ttp_3")
    hostvars = {
        name: {"synergos_engine": "sync_engine", "ansible_facts": {"synergos_component": {"container": container}}}
        for name, container in containers.items()
        if container["component"] == "worker"
    }
    found = participants(sorted(hostvars), hostvars, "sync_engine")
    assert {each["participant_id"]: [node["host"] for node in each["nodes"]] for each in found} == {
        "worker_1": ["172.20.0.4", "172.20.0.7", "172.20.0.18"],
        "worker_2": ["172.20.0.5", "172.20.0.8", "172.20.0.19"],
    }


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (
            {"sync_ttp_2": {"synergos_grid_index": 0}},
            "sync_ttp_1 and sync_ttp_2 have the same synergos_grid_index, 0: give each TTP one of its own",
        ),
        (
            {"sync_worker_2_n2": {"synergos_participant": "worker_3"}},
            "worker_3 has no worker with synergos_grid_index 0, as others have",
        ),
        ({"sync_ttp_2": {"synergos_grid_index": None}}, "sync_ttp_2 has no synergos_grid_index: set it"),
        ({"sync_director": {"director_queue": "nowhere"}}, "nowhere is no host of the inventory"),
    ],
)
def test_a_cluster_that_cannot_work_is_refused(tmp_path: Path, hosts: dict[str, Any], expected: str) -> None:
    containers, told = published(tmp_path, "synergos_cluster", {"synergos_cluster": {"hosts": hosts}})
    assert expected in told
    assert "sync_director" not in containers


@pytest.mark.parametrize("director", [True, False])
def test_a_grid_index_in_a_tier_without_a_broker_is_refused(tmp_path: Path, director: bool) -> None:
    addition: dict[str, Any] = {"synergos_plus_ttps": {"hosts": {"synp_ttp": {"synergos_grid_index": 0}}}}
    if director:
        addition["director"] = {"hosts": {"synp_director": {"synergos_address": "172.19.0.12"}}}
        addition["synergos_plus"] = {"hosts": {"synp_director": {}}}
    _containers, told = published(tmp_path, "synergos_plus", addition)
    expected = "a cluster needs a broker: a host in group mq" if director else "is for a tier with a broker: add a host"
    assert expected in told
