"""What a log line costs whoever logs it, and a round, with and without a log server; the last line is JSON.

`python lines.py [--lines 10000] [--turns 7]`. The server is a process that reads and throws away.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import data
import loopback
from measure import table
from scale import ROWS, Bench, act_as_ttp
from synergos import cli, logs

WAYS = ["standard output", "server there", "server away", "server stuck"]


def lines(count: int, flags: list[str]) -> None:
    """Log as often; print the median and the 99th percentile of the microseconds that a call took."""
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "collab_id": "c", "project_id": "p", "run_id": "r"}
    taken = []
    with Path(os.devnull).open("w") as nowhere, logs.bound(**ids):
        logs.configure(cli.parse(cli.parser("worker"), flags), "worker", nowhere)
        log = logs.get_logger("bench")
        for number in range(count):
            begin = time.perf_counter()
            log.info("round", round=number, seconds=0.004, train_loss=0.25, code=200)
            taken.append(1e6 * (time.perf_counter() - begin))
        print(statistics.median(taken), statistics.quantiles(taken, n=100)[-1], flush=True)
        os._exit(0)


def drain(listener: socket.socket) -> None:
    """Read everything from everybody."""

    def read(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        connection.close()

    while True:
        threading.Thread(target=read, args=(listener.accept()[0],), daemon=True).start()


def graylog(port: int) -> list[str]:
    """Return the flags for a server on a port of loopback."""
    return ["-l", "graylog", "127.0.0.1", str(port), "--sysmetrics_port", str(port), "-r", "5"]


def rounds(port: int, turns: int) -> dict[str, float]:
    """Return milliseconds of a round of two workers with a tiny model, medians: without a log server, and with one."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS[:2]}
    with tempfile.TemporaryDirectory() as name:
        example = data.write(Path(name) / "data", [], {}, 2, ROWS)
        for _ in range(turns):
            for way, found in taken.items():
                with tempfile.TemporaryDirectory() as folder:
                    flags = graylog(port) if way == WAYS[1] else []
                    with loopback.bare_grid(Path(folder) / "grid", example.parent) as grid:
                        grid.grow(2, *flags)
                        act_as_ttp(*flags)
                        bench = Bench(grid, Path(folder), 2, "1k")
                        for _ in range(5):
                            found += bench.train()[0].seconds
    return {way: 1000 * statistics.median(found) for way, found in taken.items()}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--log"]:
        lines(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    listener, stuck = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = unused.getsockname()[1]
    server = multiprocessing.get_context("fork").Process(target=drain, args=(listener,), daemon=True)
    server.start()
    there = listener.getsockname()[1]
    flags = [[], graylog(there), graylog(nobody), graylog(stuck.getsockname()[1])]
    taken: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    for _ in range(options.turns):
        for way, given in zip(WAYS, flags, strict=True):
            command = [sys.executable, __file__, "--log", str(options.lines), *given]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            taken[way].append(tuple(map(float, done.stdout.split())))
    cost = {way: [statistics.median(column) for column in zip(*found, strict=True)] for way, found in taken.items()}
    plain = cost[WAYS[0]][0]
    table(
        f"A line, microseconds, medians over {options.turns} x {options.lines:,} lines",
        ["", "median", "99 %", "x standard output"],
        ([way, *figures, figures[0] / plain] for way, figures in cost.items()),
    )
    ms = rounds(there, 3)
    table(
        "A round, 2 workers, 1k weights",
        ["", "ms", "ratio"],
        ([way, one, one / ms[WAYS[0]]] for way, one in ms.items()),
    )
    server.terminate()
    print(json.dumps({"line us": {way: figures[0] for way, figures in cost.items()}, "round ms": ms}))


if __name__ == "__main__":
    main()
