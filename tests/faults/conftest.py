"""The grid that all fault tests share, its undisturbed figures, and the table that the session ends with."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dataset
import grid as harness
import pytest

PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
TABLE: list[tuple[str, ...]] = []
HEAD = ("fault", "moment", "outcome", "away s", "recovered s")

# Long enough to be struck in the middle, and short enough to be repeated behind every fault.
LONG, SHORT = {"rounds": 15}, {"rounds": 2}


def playbook(name: str, *options: str) -> None:
    """Run one of the collection's playbooks on the inventory of these tests."""
    argv = [PLAYBOOK, "-i", "tests/faults/inventory.yml", f"playbooks/{name}.yml", *options]
    done = subprocess.run(argv, cwd=harness.ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def take_away() -> None:
    """Leave nothing of this session, nor of one that was interrupted."""
    playbook("teardown", "-e", "tier=synergos_faults")
    harness.unmount()
    shutil.rmtree(harness.FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def grid() -> Iterator[harness.Grid]:
    """The grid, converged and torn down with the user's own playbooks."""
    take_away()
    dataset.write(harness.FOLDER / "datasets")
    try:
        harness.mount()
        playbook("synbasic")
        yield harness.Grid()
    finally:
        take_away()


@dataclass
class Reference:
    """What undisturbed work ends with.

    Attributes:
        project_id: an aligned project with the trained and validated run `long`.
        figures: moment → figures of alignment, of the run `long` and of its validation.
        seconds: moment → duration of the work.
        short: figures of a run of two rounds.
    """

    project_id: str = "calm"
    figures: dict[str, Any] = field(default_factory=dict)
    short: Any = None


@pytest.fixture(scope="session")
def reference(grid: harness.Grid) -> Reference:
    """Align, train and validate without any fault."""
    calm = Reference()
    grid.project(calm.project_id)
    calm.figures["poll"] = grid.do(grid.alignment(calm.project_id))
    grid.run(calm.project_id, "long", **LONG)
    calm.figures["training"] = grid.do(grid.training(calm.project_id, "long"))
    calm.figures["validation"] = grid.do(grid.validation(calm.project_id, "long"))
    grid.run(calm.project_id, "short", **SHORT)
    calm.short = grid.do(grid.training(calm.project_id, "short"))
    return calm


@pytest.fixture(autouse=True)
def afterwards(grid: harness.Grid, reference: Reference, request: pytest.FixtureRequest) -> Iterator[None]:
    """Behind every test: what was done is still there, the workers are free, a next run works, no log shows a crash."""
    began = int(time.time())
    yield
    name = request.node.name.replace("[", "-").replace("]", "")
    grid.idle()
    grid.run(reference.project_id, f"next-{name}", **SHORT)
    assert grid.do(grid.training(reference.project_id, f"next-{name}")) == reference.short
    for moment, work in {
        "training": grid.training(reference.project_id, "long"),
        "validation": grid.validation(reference.project_id, "long"),
    }.items():
        assert work.figures() == reference.figures[moment]
    for name in (harness.TTP, *harness.WORKERS.values()):
        log = grid.container(name).logs(since=began).decode()
        assert "Traceback" not in log, f"{name}: {log[log.index('Traceback') :][:3000]}"


def report(*cells: str) -> None:
    """Add a line to the table."""
    TABLE.append(cells)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if TABLE:
        widths = [max(len(row[column]) for row in (HEAD, *TABLE)) for column in range(len(HEAD))]
        terminalreporter.section("faults")
        for row in (HEAD, *TABLE):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line(line.rstrip())
