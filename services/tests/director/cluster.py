"""A real cluster on loopback addresses: broker, Director, TTPs, and the workers of each TTP's grid."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import loopback
import pytest
from rabbit import PASSWORD, Rabbit

from synergos import Driver
from synergos.queue import dead

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
DIRECTOR = "127.0.0.1"
PARTICIPANTS = ("worker_1", "worker_2")
Keys = tuple[str, str, str]
PROGRAM = Path(__file__).with_name("moment.py")
full = pytest.mark.skipif(not os.environ.get("SYNERGOS_FULL"), reason="takes long: set SYNERGOS_FULL=1")


class Cluster:
    """Processes of a cluster, each on an address of its own with the ports that its container has.

    Attributes:
        driver: of the Director.
        extra: further TTPs, with the index of their grid.
    """

    def __init__(self, root: Path, rabbit: Rabbit, grids: int = 2) -> None:
        self.root, self.rabbit, self.grids = root, rabbit, grids
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.extra: dict[str, int] = {}
        self.driver = Driver(DIRECTOR, 5000)
        for user in ("director", "ttp"):
            (root / user).write_text(f"{user}:{PASSWORD}\n")

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each process."""
        found = {"sync_director": DIRECTOR}
        for grid in range(self.grids):
            found[f"sync_ttp_{grid + 1}"] = f"127.0.1.{grid + 1}"
            for number, name in enumerate(PARTICIPANTS, 1):
                found[f"{name}_n{grid + 1}"] = f"127.0.{grid + 2}.{number}"
        found.update({name: f"127.0.1.{name.rsplit('_', 1)[1]}" for name in self.extra})
        return found

    def start(self, *names: str) -> None:
        """Start processes, all of them without `names`, and wait until they answer."""
        for name in names or self.addresses:
            self._start(name)
        for name in names or self.addresses:
            loopback._wait(self.processes[name], self.addresses[name], self.log_file(name))

    def _start(self, name: str) -> None:
        address, root = self.addresses[name], self.root / name
        root.mkdir(exist_ok=True)
        queue = ["-mq", "rabbitmq", "127.0.0.1", str(self.rabbit.port)]
        environment = {"SYNERGOS_ROOT": str(root)}
        if name.startswith("worker"):
            component, flags = "worker", []
            if not (root / "data").exists():
                (root / "data").symlink_to(EXAMPLES)
        elif name == "sync_director":
            component, flags = "director", queue
            environment["SYNERGOS_ARTEFACTS_URL"] = f"http://{address}:5000"
            environment["SYNERGOS_QUEUE_CREDENTIALS"] = str(self.root / "director")
        else:
            component, flags = "ttp", [*queue, "-g", str(self.extra.get(name, int(name.rsplit("_", 1)[1]) - 1))]
            environment["SYNERGOS_ARTEFACTS_URL"] = f"http://{address}:8020"
            environment["SYNERGOS_QUEUE_CREDENTIALS"] = str(self.root / "ttp")
        with self.log_file(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, str(PROGRAM), address, component, "--id", name, "-r", "3600", "--cpus", "1", *flags],
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def host(self, name: str) -> str:
        """Return where the TTPs are to find a worker."""
        return self.addresses[name]

    def log_file(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def kill(self, *names: str) -> None:
        """End processes as a power cut would."""
        for name in names:
            self.processes[name].send_signal(signal.SIGKILL)
            self.processes.pop(name).wait()

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=30)
        self.processes.clear()

    def replay(self) -> None:
        """Put dead letters back, as an administrator does."""
        list(dead.replay(self.rabbit.address("admin")))

    def complaints(self) -> str:
        """Return what the processes wrote about what went wrong."""
        lines = [
            f"{name}: {line[:1500]}"
            for name in self.addresses
            if self.log_file(name).exists()
            for line in self.log_file(name).read_text().splitlines()
            if not line.startswith("{") or '"level": "info"' not in line
        ]
        return "\n".join(lines[-40:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what the TTPs logged under this name."""
        files = [self.log_file(f"sync_ttp_{grid + 1}") for grid in range(self.grids)]
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return [json.loads(line) for line in lines if f'"event": "{name}"' in line]

    def describe(
        self,
        collab: str,
        example: str = "diabetes",
        runs: int = 1,
        grids: int | None = None,
        driver: Driver | None = None,
        **parameters: Any,
    ) -> Keys:
        """Register a project with an experiment, so many runs, and one worker per grid and participant."""
        driver, folder = driver or self.driver, EXAMPLES / example
        keys = (collab, example, "linear")
        action = "regress" if example == "diabetes" else "classify"
        ok(driver.collaborations.create(collab))
        ok(driver.projects.create(collab, example, action, {"tier_1": []}))
        ok(driver.experiments.create(*keys, json.loads((folder / "architecture.json").read_text())))
        settings = {**json.loads((folder / "hyperparameters.json").read_text()), **parameters}
        # To the last round.
        settings["patience"] = settings["rounds"]
        for number in range(1, runs + 1):
            ok(driver.runs.create(*keys, f"run_{number}", **{**settings, "seed": number}))
        for number, name in enumerate(PARTICIPANTS, 1):
            ok(driver.participants.create(name))
            task = driver.registrations
            for grid in range(grids or self.grids):
                task.add_node(host=self.host(f"{name}_n{grid + 1}"), port=8020, f_port=5000)
            ok(task.create(collab, example, name, role="host"))
            data = [example, "dataset", f"data{number}"]
            ok(driver.tags.create(collab, example, name, train=[[*data, "train"]], evaluate=[[*data, "evaluate"]]))
        return keys

    def align(self, keys: Keys) -> None:
        """Align a project."""
        ok(self.driver.alignments.create(*keys[:2]))
        self.driver.alignments.wait(*keys[:2], timeout=120, interval=0.2)

    def jobs(self, **filters: str) -> list[dict[str, Any]]:
        """Return jobs with all that is told of each."""
        found = ok(self.driver.jobs.read_all(**filters))
        return [ok(self.driver.jobs.read(job["job_id"])) for job in found]

    def done(self, seconds: float = 240, **filters: str) -> list[dict[str, Any]]:
        """Wait until all these jobs have ended, and return them."""
        until(lambda: all(job["state"] not in ("queued", "running") for job in self.jobs(**filters)), seconds)
        return self.jobs(**filters)


@contextmanager
def running(root: Path) -> Iterator[Cluster]:
    """Start a cluster of two grids with two workers each and a broker; tell what they complained of, and end them."""
    rabbit = Rabbit()
    rabbit.start()
    found = Cluster(root, rabbit)
    try:
        found.start()
        yield found
    finally:
        print(found.complaints())
        found.stop()
        rabbit.kill()
        shutil.rmtree(rabbit.folder)


def ok(reply: dict[str, Any]) -> Any:
    """Return the data of a success."""
    assert reply.get("success") == 1, reply
    return reply["data"]


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.1)
