"""The worker as a process: what it loads, how it ends, and what `reset` deletes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from synergos import cli
from synergos.jobs import Tags

# The ports are fixed by the containers that use them; here they have to be free ones.
MAIN = """
import sys
from synergos.worker import __main__ as worker
worker.COMMAND_PORT, worker.DATA_PORT = int(sys.argv[1]), int(sys.argv[2])
worker.main(sys.argv[3:])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A worker over `root`, started and asked through its real interface."""

    def __init__(self, root: Path) -> None:
        self.ports = [str(free_port()), str(free_port())]
        self.root = root
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.child: subprocess.Popen[str] | None = None

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-c", MAIN, *self.ports, *flags]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SYNERGOS_ROOT": str(self.root)}

    def start(self, *flags: str) -> None:
        self.child = subprocess.Popen(self.command(*flags), env=self.environment, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/health", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail("the worker did not answer")

    def stop(self) -> int:
        assert self.child
        self.child.send_signal(signal.SIGTERM)
        self.log = self.child.communicate(timeout=20)[0]
        code, self.child = self.child.returncode, None
        return code

    def reset(self, *flags: str) -> Any:
        done = subprocess.run(self.command("reset", *flags), env=self.environment, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines(), done.stderr

    def maps(self) -> str:
        assert self.child
        return Path(f"/proc/{self.child.pid}/maps").read_text()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    worker = Process(tmp_path)
    yield worker
    if worker.child:
        worker.child.kill()
        worker.child.communicate()


def test_life_of_a_worker(process: Process, heart_tags: Tags) -> None:
    process.start("--id", "worker_1", "--cpus", "1", "--minimum-rows", "25")
    assert not [name for name in ("libtorch", "sklearn") if name in process.maps()]
    assert httpx.get(f"http://127.0.0.1:{process.ports[1]}/health").status_code == 200

    body = {"action": "classify", "tags": heart_tags.model_dump()}
    poll = f"{process.url}/worker/poll/c/p"
    assert httpx.post(poll, json=body).status_code == 202
    deadline = time.monotonic() + 60
    while (code := httpx.request("GET", poll, json=body).status_code) == 406 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert code == 200
    metadata = httpx.request("GET", poll, json=body).json()["data"]["metadata"]
    told = [meta for meta, facts in metadata.items() if "mean" in facts["features"]["num_variables"]["age"]]
    assert told == ["train"], "the other sets have fewer than 25 rows"
    while "libtorch" not in process.maps() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "libtorch" in process.maps()

    combination = f"{process.url}/worker/initialise/c/p/e/r"
    assert httpx.post(combination, json={**body, "id": "w", "alignments": {}}).status_code == 201
    project = process.root / "outputs/c/p"
    assert process.reset("--dry-run") == (0, [str(project)], "")
    code, _, complaint = process.reset()
    assert code == 1 and "busy (1 sessions)" in complaint and project.exists()
    assert httpx.post(f"{process.url}/worker/terminate/c/p/e/r").status_code == 200

    keep = process.root / "outputs/mine/notes"
    keep.mkdir(parents=True)
    assert process.reset() == (0, [str(project)], "")
    assert not project.parent.exists() and keep.exists()
    assert process.reset() == (0, [], "")
    assert httpx.request("GET", poll, json=body).status_code == 404
    assert httpx.post(poll, json=body).status_code == 202

    assert process.stop() == 0
    assert '"node": "worker_1"' in process.log and "Traceback" not in process.log


def test_the_threshold_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(cli.parser("worker"), ["--minimum-rows", "0"])
    assert "--minimum-rows is at least 1, not 0" in capsys.readouterr().err


def test_a_taken_port_is_named(process: Process) -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", int(process.ports[1])))
        holder.listen()
        done = subprocess.run(process.command(), env=process.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"port {process.ports[1]}" in done.stdout
