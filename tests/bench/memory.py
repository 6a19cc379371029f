"""Memory of a worker, idle and busy, and of an idle TTP, beside bare peers; prints a table and, as last line, JSON.

`python memory.py [--sizes 1k 10M] [--workers 3]`. MiB, medians over the workers. Resident memory includes what is
mapped from files, such as libraries, which processes share; `own` does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import data
import loopback
from measure import memory, table
from scale import HIDDEN, ROWS, Bench, act_as_ttp

BARE = "import fastapi, uvicorn; uvicorn.Server(uvicorn.Config(fastapi.FastAPI()))"
TORCH = f"{BARE}; import torch; torch.ones(2, 2, requires_grad=True).sum().backward()"
# Seconds after which a process that has just worked counts as idle.
PAUSE = 3.0


def peer(code: str) -> dict[str, float]:
    """Return the memory of a Python process that has run `code`."""
    command = [sys.executable, "-c", f"{code}; print('ready', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = memory(process.pid)
        process.kill()
    return found


def middle(pids: Iterable[int]) -> dict[str, float]:
    """Return the median memory of processes."""
    found = [memory(pid) for pid in pids]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=HIDDEN, default=["1k", "10M"])
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    act_as_ttp()
    found = {"bare FastAPI": peer(BARE), "bare FastAPI and torch": peer(TORCH)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example = data.write(folder / "data", [], {}, options.workers, ROWS)
        for size in options.sizes:
            # New processes for each size: one that has worked does not give everything back.
            with loopback.grid(folder / size, example.parent, options.workers) as grid:
                pids = [process.pid for part, process in grid.processes.items() if part != "ttp"]
                time.sleep(PAUSE)
                found.setdefault("idle worker", middle(pids))
                found.setdefault("idle TTP", memory(grid.processes["ttp"].pid))
                bench = Bench(grid, folder, options.workers, size)
                busy: list[dict[str, float]] = []
                bench.train(lambda busy=busy, pids=pids: busy.append(middle(pids)))
                found[f"worker in a run of {size}"] = busy[-1]
                time.sleep(PAUSE)
                found[f"worker after a run of {size}"] = middle(pids)
    table(
        f"Memory of one process (MiB, medians over {options.workers} workers)",
        ["process", "resident", "own", "highest so far"],
        ([part, *figures.values()] for part, figures in found.items()),
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
