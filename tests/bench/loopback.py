"""A whole grid as processes of this machine: each on its own loopback address, with the ports that a container has.

`python loopback.py ADDRESS COMPONENT [flags]` runs one service, bound to ADDRESS.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

TTP = "127.0.0.1"


class Grid(NamedTuple):
    """Addresses of a running grid.

    Attributes:
        ttp: address of the TTP.
        workers: participant id -> address.
    """

    ttp: str
    workers: dict[str, str]


@contextmanager
def grid(root: Path, data: Path, workers: int = 2) -> Iterator[Grid]:
    """Start a TTP and workers with their files below `root`, wait until all answer, and end them afterwards.

    Args:
        data: folder with the data sets; every worker sees all of it.
    """
    found = Grid(TTP, {f"worker_{number}": f"127.0.0.{number + 1}" for number in range(1, workers + 1)})
    processes = {"ttp": _start(root / "ttp", found.ttp, "ttp")}
    for name, address in found.workers.items():
        (root / name).mkdir(parents=True)
        (root / name / "data").symlink_to(data)
        processes[name] = _start(root / name, address, "worker")
    try:
        for name, process in processes.items():
            _wait(process, found.workers.get(name, found.ttp), root / name / "log")
        yield found
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(timeout=30)


def _start(root: Path, address: str, component: str) -> subprocess.Popen[bytes]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, __file__, address, component, "--id", root.name],
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
    """Run one service as its console script does, bound to one address instead of all."""
    _, address, component, *flags = sys.argv
    import synergos.server

    synergos.server.serve = functools.partial(synergos.server.serve, host=address)
    sys.argv = [f"synergos-{component}", *flags]
    importlib.import_module(f"synergos.{component}.__main__").main()


if __name__ == "__main__":
    main()
