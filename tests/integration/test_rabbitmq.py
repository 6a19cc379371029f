"""The role `mq` on this machine's Docker, as a playbook runs it; own names and subnet, all removed afterwards."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
GRID = f"mqtest{os.getpid()}"
SUBNET = "10.213.43.0/24"
PLAYS: list[dict[str, Any]] = [
    {"hosts": "mq", "gather_facts": False, "roles": [{"role": "synergos.grid.mq"}]},
    {
        "hosts": "engines",
        "gather_facts": False,
        "become": True,
        "vars": {"images_required": ["mq"], "grid_hosts": "{{ groups.mq }}"},
        "roles": [{"role": "synergos.grid.images"}, {"role": "synergos.grid.grid"}],
    },
    {
        "hosts": "mq",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.import_role": {"name": "synergos.grid.mq", "tasks_from": "configure"}}],
    },
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A grid that is a broker only, and its API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ui = free_port()
        self.variables: dict[str, Any] = {
            "synergos_grid": GRID,
            "synergos_network": {"name": GRID, "subnet": SUBNET},
            "synergos_engine": "here",
            "synergos_state_dir": str(folder / "state"),
            "synergos_secrets_dir": str(folder / "secrets"),
            "mq_port": free_port(),
            "mq_ui_port": self.ui,
        }
        self.ttps = ["ttp_1", "TTP-2"]

    @property
    def name(self) -> str:
        return f"{GRID}_mq"

    def run(self, *options: str, plays: list[dict[str, Any]] = PLAYS) -> tuple[int, str]:
        """Run plays; return how many changes they made, and what they told."""
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        groups = {
            "engines": {"hosts": {"here": here}},
            "mq": {"hosts": {self.name: {"synergos_address": "10.213.43.16"}}},
            "director": {"hosts": {"director": {}}},
            "ttp": {"hosts": {name: {} for name in self.ttps}},
        }
        inventory = {"all": {"children": {GRID: {"children": groups, "vars": self.variables}}}}
        (self.folder / "hosts.yml").write_text(json.dumps(inventory))
        (self.folder / "play.yml").write_text(json.dumps(plays))
        done = subprocess.run(
            [PLAYBOOK, "-i", str(self.folder / "hosts.yml"), str(self.folder / "play.yml"), "--diff", *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=580,
        )
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        for path in (self.folder / "secrets").glob("*"):
            assert path.read_text().strip() not in told
        return sum(map(int, re.findall(r"changed=(\d+)", told))), told

    def remove(self) -> None:
        absent = {"name": GRID, "state": "absent", "state_dir": str(self.folder / "state")}
        task = {"synergos.grid.grid": {**absent, "secrets_dir": str(self.folder / "secrets")}}
        self.run(plays=[{"hosts": "engines", "gather_facts": False, "tasks": [task]}])

    def api(self, method: str, path: str, body: Any = None, user: str = "admin") -> Any:
        secret = (self.folder / "secrets" / f"mq_{user}").read_text().strip()
        login = base64.b64encode(f"{user}:{secret}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ui}/api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def publish(self, key: str) -> None:
        body = {"routing_key": key, "payload": "x", "payload_encoding": "string", "properties": {"delivery_mode": 2}}
        assert self.api("POST", "exchanges/%2F/SynMQ_topic_logs/publish", body)["routed"]

    def inside(self, *command: str) -> tuple[int, str]:
        result = docker.from_env().containers.get(self.name).exec_run(list(command))
        return int(result.exit_code), result.output.decode()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("mq"))
    try:
        changed, told = broker.run()
        assert changed == 3 or (changed == 2 and "Have the images" in told), told  # images, container, configuration
        yield broker
    finally:
        broker.remove()


def test_a_second_run_changes_nothing(broker: Broker) -> None:
    assert broker.run()[0] == 0


def test_every_component_has_a_user_of_its_own_with_the_least_rights(broker: Broker) -> None:
    users = {user["name"]: user["tags"] for user in broker.api("GET", "users")}
    assert users == {
        "admin": ["administrator"],
        "health": ["management"],
        **{name: ["synergos"] for name in ("director", "ttp_1", "TTP-2")},
    }
    rights = {item["user"]: item for item in broker.api("GET", "permissions")}
    assert rights["ttp_1"]["configure"] == r"^amq\.gen-.*$" and rights["director"]["configure"] == "^$"
    for user in ("ttp_1", "director"):  # neither gets at the API
        with pytest.raises(urllib.error.HTTPError, match="401"):
            broker.api("GET", "overview", user=user)


def test_what_was_changed_by_hand_is_named_and_put_right(broker: Broker) -> None:
    broker.api("DELETE", "queues/%2F/train")
    broker.api("DELETE", "exchanges/%2F/SynMQ_fanout_logs")
    policy = {"pattern": ".*", "definition": {"max-length": 1}, "apply-to": "queues"}
    broker.api("PUT", "policies/%2F/jobs", policy)
    broker.api("PUT", "users/guest", {"password": "guest", "tags": "administrator"})
    broker.api("PUT", "users/ttp_1", {"password": "x", "tags": "synergos"})
    broker.api("DELETE", "permissions/%2F/TTP-2")
    for mode in (["--check"], []):
        changed, told = broker.run(*mode)
        assert changed == 1, told
        for named in (
            "queue train: state",
            "exchange SynMQ_fanout_logs: state",
            "binding SynMQ_fanout_logs → completed: state",
            "policy jobs: pattern",
            "user guest: state",
            "user ttp_1: password",
            "user TTP-2: read",
        ):
            assert named in told, told
    assert broker.run()[0] == 0


def test_a_grid_more_or_less_restarts_nothing(broker: Broker) -> None:
    started = docker.from_env().containers.get(broker.name).attrs["State"]["StartedAt"]
    broker.ttps.append("ttp_3")
    changed, told = broker.run()
    assert changed == 1 and "user ttp_3: state" in told
    broker.ttps.remove("ttp_3")
    changed, told = broker.run()
    assert changed == 1 and "user ttp_3: state" in told
    assert docker.from_env().containers.get(broker.name).attrs["State"]["StartedAt"] == started


def test_messages_survive_the_container_and_are_deleted_by_reset(broker: Broker) -> None:
    for key in ("SynMQ_topic_train", "SynMQ_topic_train", "SynMQ_topic_evaluate"):
        broker.publish(key)
    docker.from_env().containers.get(broker.name).remove(force=True)
    assert broker.run()[0] == 1
    expected = "queue train: 2 messages\nqueue evaluate: 1 messages\n"
    assert eventually(broker, "reset", "--dry-run") == expected
    assert broker.inside("synergos-mq", "reset") == (0, expected)
    until = time.monotonic() + 15
    while broker.inside("synergos-mq", "reset", "--dry-run")[1]:
        assert time.monotonic() < until
        time.sleep(1)


def eventually(broker: Broker, *command: str) -> str:
    """What `synergos-mq` tells, once it tells something: RabbitMQ's counts are some seconds old."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        code, told = broker.inside("synergos-mq", *command)
        assert code == 0, told
        if told.count("\n") == 2:
            return told
        time.sleep(1)
    raise AssertionError("it tells nothing")


def test_the_health_check_logs_in_and_uses_a_queue(broker: Broker) -> None:
    broker.api("DELETE", "queues/%2F/health")
    assert broker.inside("synergos-mq", "health") == (0, "")  # makes it
    broker.api("DELETE", "queues/%2F/health")
    broker.api("PUT", "queues/%2F/health", {"durable": True, "arguments": {"x-queue-type": "classic"}})
    assert broker.inside("synergos-mq", "health") == (1, "RabbitMQ answered PUT queues/%2F/health with 400\n")
    broker.api("DELETE", "queues/%2F/health")
    broker.api("PUT", "users/health", {"password": "another", "tags": "management"})
    assert broker.inside("synergos-mq", "health") == (1, "RabbitMQ answered PUT queues/%2F/health with 401\n")
    assert broker.inside("synergos-mq")[0] == 2
