"""A real RabbitMQ of the test image, with the queues that the role `mq` sets up."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pika
import yaml

from synergos.queue import Address

ROOT = Path(__file__).resolve().parents[3]
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
PASSWORD = "of-the-tests"
TICK_MS = 500  # how often the broker looks for consumers that are too slow


class Rabbit:
    """One broker; `kill` and `start` as often as one likes, with what it has on disk.

    Attributes:
        limit: deliveries of a job that end without an acknowledgement.
    """

    limit = 3

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rabbit-"))
        self.port, self.ui, self.distribution, self.epmd = (_free() for _ in range(4))
        self.process: subprocess.Popen[bytes] | None = None
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nmanagement.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.ui}\nload_definitions = {self.folder}/definitions.json\n"
            f"raft.wal_max_size_bytes = {16 * 1024**2}\n"
        )
        (self.folder / "advanced.config").write_text(f"[{{rabbit, [{{channel_tick_interval, {TICK_MS}}}]}}].\n")
        (self.folder / "plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "definitions.json").write_text(json.dumps(self._definitions()))

    def address(self, user: str = "admin") -> Address:
        return Address("127.0.0.1", self.port, user, PASSWORD)

    def start(self) -> None:
        environment = {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "ERL_EPMD_PORT": str(self.epmd),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [SERVER], env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if self._answers():
                return
            time.sleep(0.1)
        raise AssertionError("RabbitMQ does not start:\n" + (self.folder / "log").read_text()[-4000:])

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def channel(self) -> Any:
        """Return a channel of the administrator, on a connection of its own."""
        credentials = pika.PlainCredentials("admin", PASSWORD)
        parameters = pika.ConnectionParameters("127.0.0.1", self.port, credentials=credentials)
        return pika.BlockingConnection(parameters).channel()

    def count(self, queue: str) -> int:
        """Return the messages that wait in a queue."""
        channel = self.channel()
        try:
            return int(channel.queue_declare(queue, passive=True).method.message_count)
        finally:
            channel.connection.close()

    def put(self, body: bytes, key: str) -> None:
        """Publish something by hand."""
        channel = self.channel()
        channel.basic_publish("SynMQ_topic_logs", key, body)
        channel.connection.close()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        token = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ui}/api/{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Basic {token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def policy(self, **definition: Any) -> None:
        """Replace what holds for the job queues."""
        base = {"dead-letter-exchange": "SynMQ_topic_dead", "dead-letter-strategy": "at-least-once"}
        body = {"pattern": "^(preprocess|train|evaluate)$", "apply-to": "queues", "priority": 0}
        body["definition"] = {**base, "overflow": "reject-publish", "delivery-limit": self.limit, **definition}
        self.api("PUT", "policies/%2F/jobs", body)

    def purge(self) -> None:
        """Empty all queues."""
        for queue in ("preprocess", "train", "evaluate", "completed", "progress", "dead"):
            self.api("DELETE", f"queues/%2F/{queue}/contents")

    def _answers(self) -> bool:
        try:
            return bool(self.api("GET", "queues/%2F/dead")["state"] == "running")
        except (OSError, KeyError):
            return False

    def _definitions(self) -> dict[str, Any]:
        role = yaml.safe_load((ROOT / "roles/mq/vars/main.yml").read_text())
        users: dict[str, dict[str, str]] = {
            "admin": {"configure": ".*", "read": ".*", "write": ".*"},
            **role["mq__rights"],
        }
        safe = role["mq__safe"]
        results = {**safe, "dead-letter-routing-key": "SynMQ_fanout_completed", "delivery-limit": 20}
        return {
            "users": [
                {"name": name, "password": PASSWORD, "tags": ["administrator"] if name == "admin" else []}
                for name in users
            ],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": name, "vhost": "/", **rights} for name, rights in users.items()],
            "exchanges": [
                {**exchange, "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}
                for exchange in role["mq__exchanges"]
            ],
            "queues": [
                {
                    "name": queue["name"],
                    "vhost": "/",
                    "durable": True,
                    "auto_delete": False,
                    "arguments": {"x-queue-type": queue["type"]},
                }
                for queue in role["mq__queues"]
            ],
            "bindings": [
                {
                    "source": binding["exchange"],
                    "vhost": "/",
                    "destination": binding["queue"],
                    "destination_type": "queue",
                    "routing_key": binding["key"],
                    "arguments": {},
                }
                for binding in role["mq__bindings"]
            ],
            "policies": [
                {
                    "name": name,
                    "vhost": "/",
                    "pattern": pattern,
                    "apply-to": "queues",
                    "priority": 0,
                    "definition": definition,
                }
                for name, pattern, definition in (
                    ("jobs", "^(preprocess|train|evaluate)$", {**safe, "delivery-limit": self.limit}),
                    ("results", "^completed$", results),
                    ("progress", "^progress$", {"max-length": 10000, "overflow": "drop-head"}),
                )
            ],
        }


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
