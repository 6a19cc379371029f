"""How long a whole federated cycle takes, over the REST interface of a TTP; prints a table and, as the last line, JSON.

`python tests/bench/bench.py` where the services and torch are installed, for example in the test image. Everything
runs on loopback addresses of this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import data
import loopback
import measure
from synergos.demo.__main__ import PHASES, run
from synergos.demo.settings import Settings

# As the original's notebooks ran it: two rounds of one epoch over the whole set at once.
CYCLE = {"rounds": 2, "epochs": 1, "base_lr": 0.0005, "max_lr": 0.005, "criterion": "MSELoss"}


def settings(grid: loopback.Grid, example: Path, number: int) -> Settings:
    """Return the settings of one cycle in a project of its own."""
    participants = [
        {"participant_id": name, "host": address, "data": f"data{index}"}
        for index, (name, address) in enumerate(grid.workers.items(), 1)
    ]
    return Settings.model_validate(
        {"host": grid.ttp, "project_id": f"cycle_{number}", "example": example, "participants": participants}
    )


def cycles(repeats: int) -> dict[str, dict[str, float]]:
    """Return the median seconds per phase: `cold` right after the start of all processes, `warm` afterwards."""
    taken: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    phases = [phase for phase in PHASES if phase != "compare"]
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            example = data.write(Path(folder) / "data", data.layers([10, 1]), CYCLE)
            with loopback.grid(Path(folder) / "grid", example.parent) as grid:
                for number in range(4):
                    told = settings(grid, example, number)
                    seconds = {phase: float(run(phase, told)["seconds"]) for phase in phases}
                    seconds["total"] = sum(seconds.values())
                    taken["warm" if number else "cold"].append(seconds)
    return {
        state: {phase: statistics.median(each[phase] for each in found) for phase in found[0]}
        for state, found in taken.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    found = cycles(parser.parse_args().repeats)
    measure.table(
        "Cycle: 2 rounds x 1 epoch, 2,500 rows, 2 workers (seconds, median)",
        ["phase", *found],
        ([phase, *(column[phase] for column in found.values())] for phase in found["warm"]),
    )
    print(json.dumps({"cycle": found}))


if __name__ == "__main__":
    main()
