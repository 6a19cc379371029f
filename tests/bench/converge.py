#!/usr/bin/env python3
"""How long a converge of one tier takes beside an empty play, on this machine, with the images present.

Prints medians in seconds over several runs and the number of module executions on the engine. Run it from the checkout
whose grid it may take down: it tears down and converges, keeping data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
EMPTY = "- hosts: localhost\n  gather_facts: false\n  tasks: []\n"


def play(*argv: str) -> tuple[float, str]:
    """Return seconds and output of one ansible-playbook run."""
    begin = time.perf_counter()
    done = subprocess.run([PLAYBOOK, *argv], cwd=ROOT, check=True, capture_output=True, text=True, timeout=600)
    return time.perf_counter() - begin, done.stdout


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--tier", choices=["basic", "plus", "cluster"], default="basic")
    given = options.parse_args()
    runs, tier = given.runs, given.tier
    playbook = f"playbooks/syn{tier}.yml"
    seconds: dict[str, list[float]] = {"empty play": [], "second run": [], "check mode": [], "from nothing": []}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as empty:
        empty.write(EMPTY)
        empty.flush()
        play(playbook)
        for _ in range(runs):
            seconds["empty play"].append(play(empty.name)[0])
            seconds["second run"].append(play(playbook)[0])
            seconds["check mode"].append(play(playbook, "--check", "--diff")[0])
    for _ in range(runs):
        play("playbooks/teardown.yml", "-e", f"tier=synergos_{tier}", "-e", "keep_data=true")
        seconds["from nothing"].append(play(playbook)[0])
    executions = play(playbook, "-vvv")[1].count("Using module file")
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<14}{value:>8.2f} s{value / medians['empty play']:>8.1f} x empty play")
    print(f"module executions of a second run: {executions}")
    print(json.dumps({"runs": runs, "median_seconds": medians, "executions": executions}))


if __name__ == "__main__":
    main()
