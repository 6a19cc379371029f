"""Where the components of a tier are told to find each other, as the user's inventories and playbooks say it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
