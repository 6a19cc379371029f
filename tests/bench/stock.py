"""Rounds of ours beside those of stock Flower: a SuperLink and SuperNodes, on the same rows and model.

`python stock.py [--participants 2 8] [--size 1k] [--rounds 4]`. Prints a table and, as the last line, JSON. Flower runs
as installed, `flower-superlink` and one `flower-supernode` per participant, which start a process per message.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import data
import loopback
import numpy as np
from measure import Mark, Turn, table, wait_until
from peer import Peers
from plain import Rows
from scale import HIDDEN, ROWS, Bench, act_as_ttp, cell

HERE = Path(__file__).parent
LINK, FIRST_NODE = 8000, 9100
# Seconds that a run may take before it is given up.
LIMIT = 300
PROJECT = """\
[project]
name = "benchapp"
version = "1.0.0"
dependencies = []
license = "GPL-3.0-only"

[tool.flwr.app]
publisher = "synergos"

[tool.flwr.app.components]
serverapp = "benchapp.stock_app:server"
clientapp = "benchapp.stock_app:client"

[tool.flwr.app.config]
participants = {participants}
features = {features}
hidden = {hidden}
rounds = {rounds}
"""
# `flwr run` without the interactive command line around it, whose packages the images do without.
SUBMIT = "import sys; from flwr.cli.run import run; run(sys.argv[1], 'bench', None, None, None, False, 'default')"


def write_app(folder: Path, rows: list[Rows], hidden: int, rounds: int) -> None:
    """Write the Flower app, Flower's configuration and the participants' rows below `folder`."""
    package = folder / "app" / "benchapp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("measure.py", "plain.py", "stock_app.py"):
        shutil.copy(HERE / name, package / name)
    told = {"participants": len(rows), "features": rows[0]["train_X"].shape[1], "hidden": hidden, "rounds": rounds}
    (folder / "app" / "pyproject.toml").write_text(PROJECT.format(**told))
    (folder / "home").mkdir()
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{LINK}"\ninsecure = true\n'
    )
    for number, own in enumerate(rows):
        np.savez(folder / f"rows_{number}.npz", **own)


def flower(folder: Path, rows: list[Rows], hidden: int, rounds: int) -> tuple[Turn, float]:
    """Run stock Flower; return the figures of its rounds, and seconds from handing in the app to the first's end."""
    write_app(folder, rows, hidden, rounds)
    marks = folder / "marks"
    marks.touch()
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder / "home"),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "BENCH_MARKS": str(marks),
        "PYTHONPATH": "",
    }
    processes: list[subprocess.Popen[bytes]] = []

    def start(program: str, *argv: str) -> None:
        with (folder / "log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    [Path(sys.executable).parent / program, *argv],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def ended() -> bool:
        if any(process.poll() is not None for process in processes[:-1]) or processes[-1].poll():
            raise SystemExit(f"A process of Flower ended early:\n{(folder / 'log').read_text()[-3000:]}")
        return len(marks.read_text().splitlines()) > rounds

    try:
        start("flower-superlink", "--insecure", "--port", str(LINK), "--disable-runtime-dependency-installation")
        wait_until(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{LINK}/health", timeout=1).status == 200, "SuperLink"
        )
        for number in range(len(rows)):
            start(
                "flower-supernode",
                "--insecure",
                "--superlink",
                f"127.0.0.1:{LINK}",
                "--port",
                str(FIRST_NODE + number),
                "--node-config",
                f'rows="{folder}/rows_{number}.npz"',
            )
        begin = time.time()
        start("python", "-c", SUBMIT, str(folder / "app"))
        wait_until(ended, "the run of Flower", LIMIT)
    finally:
        for process in processes:
            # Their children are in their sessions.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=15)
    # The first line is Flower's look at the weights before the first round.
    ends = [Mark(*json.loads(line)) for line in marks.read_text().splitlines()[1:]]
    return Turn.of(ends), ends[0].seconds - begin


def main() -> None:
    """Measure what the command line names, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--size", choices=HIDDEN, default="1k")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    act_as_ttp()
    found: list[dict[str, float]] = []
    for participants in options.participants:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            example = data.write(folder / "data", [], {}, participants, ROWS)
            with loopback.bare_grid(folder / "grid", example.parent) as grid:
                grid.grow(participants, "--peer")
                ours = cell(grid, folder, participants, options.size, 3)
                bench = Bench(grid, folder, participants, options.size)
                with Peers(bench.addresses) as peers:
                    rows = bench.prepare(peers)
            theirs, first = flower(folder, rows, bench.hidden, options.rounds)
        seconds = statistics.median(theirs.seconds)
        unavoidable = 2 * 4 * ours["weights"] * participants
        found.append(
            {
                **ours,
                "flower ms": 1000 * seconds,
                "flower CPU ms": 1000 * theirs.cpu,
                "flower / ours": 1000 * seconds / ours["ours ms"],
                "CPU flower / ours": 1000 * theirs.cpu / ours["ours CPU ms"],
                "flower bytes / unavoidable": theirs.http / unavoidable,
                "flower first round s": first,
            }
        )
    table(
        f"{options.size} parameters: one round of ours and of stock Flower, medians",
        list(COLUMNS),
        ([row[name] for name in COLUMNS.values()] for row in found),
    )
    print(json.dumps(found))


COLUMNS = {
    "n": "participants",
    "ours ms": "ours ms",
    "HTTP": "http ms",
    "loop": "loop ms",
    "Flower ms": "flower ms",
    "x ours": "flower / ours",
    "ours CPU ms": "ours CPU ms",
    "Flower CPU ms": "flower CPU ms",
    "x ours ": "CPU flower / ours",
    "ours bytes x": "ours bytes / unavoidable",
    "Flower bytes x": "flower bytes / unavoidable",
    "Flower submit to end of round 1, s": "flower first round s",
}

if __name__ == "__main__":
    main()
