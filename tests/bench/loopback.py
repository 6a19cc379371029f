"""A whole grid as processes of this machine: each on its own loopback address, with the ports that a container has.

`python loopback.py ADDRESS COMPONENT [flags]` runs one service, bound to ADDRESS.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

TTP = "127.0.0.1"


class Grid:
    """A running grid.

    Attributes:
        ttp: address of the TTP.
        workers: participant id -> address.
    """

    def __init__(self, root: Path, data: Path) -> None:
        self.ttp = TTP
        self.workers: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._root, self._data = root, data

    def grow(self, workers: int, *flags: str) -> None:
        """Start workers until there are so many, and wait until they answer."""
        for number in range(len(self.workers) + 1, workers + 1):
            name = f"worker_{number}"
            (self._root / name).mkdir(parents=True)
            (self._root / name / "data").symlink_to(self._data)
            self.workers[name] = f"127.0.0.{number + 1}"
            self.processes[name] = _start(self._root / name, self.workers[name], "worker", *flags)
            if number % 4 == 0:  # else they would all be slow to start
                self.wait()
        self.wait()

    def start_ttp(self, *flags: str) -> None:
        """Start the TTP, which the workers do without where a benchmark plays its part."""
        self.processes["ttp"] = _start(self._root / "ttp", self.ttp, "ttp", *flags)

    def wait(self) -> None:
        """Wait until all answer."""
        for name, process in self.processes.items():
            _wait(process, self.workers.get(name, self.ttp), self._root / name / "log")

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=30)


@contextmanager
def grid(root: Path, data: Path, workers: int = 2) -> Iterator[Grid]:
    """Start a TTP and workers with their files below `root`, wait until all answer, and end them afterwards.

    Args:
        data: folder with the data sets; every worker sees all of it.
    """
    with bare_grid(root, data) as found:
        found.start_ttp()
        found.grow(workers)
        yield found


@contextmanager
def bare_grid(root: Path, data: Path) -> Iterator[Grid]:
    """Yield a grid without any process yet, and end afterwards what was started."""
    found = Grid(root, data)
    try:
        yield found
    finally:
        found.stop()


def _start(root: Path, address: str, component: str, *flags: str) -> subprocess.Popen[bytes]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, __file__, address, component, "--id", root.name, *flags],
            env={**os.environ, "SYNERGOS_ROOT": str(root)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://{address}:5000/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"The service at {address} did not start:\n{log.read_text()[-2000:]}")


def main() -> None:
    """Run one service as its console script does, bound to one address instead of all; `--peer` puts a peer beside."""
    _, address, component, *flags = sys.argv
    import synergos.server

    beside: list[tuple[Any, int]] = []
    if "--peer" in flags:
        flags.remove("--peer")
        _put_beside(beside)
    serve = synergos.server.serve
    synergos.server.serve = lambda apps, **options: serve([*apps, *beside], host=address, **options)
    sys.argv = [f"synergos-{component}", *flags]
    importlib.import_module(f"synergos.{component}.__main__").main()


def _put_beside(apps: list[tuple[Any, int]]) -> None:
    """Add the peer of a worker to `apps` as soon as the worker makes its data port; both see the same sessions."""
    from synergos.federation import port

    make = port.create_app

    def both(sessions: Any) -> Any:
        import peer

        apps.append((peer.create_app(sessions), peer.PORT))
        return make(sessions)

    port.create_app = both


if __name__ == "__main__":
    main()
