"""Every fault at every moment: the work ends as if nothing had happened, or says clearly why it cannot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from conftest import LONG, Reference, report
from grid import TTP, WORKERS, Grid, Job, Work, wait_for

VICTIM = "synf_worker_1"
# Longer than a TCP retransmission, shorter than the runs' grace.
AWAY = 5.0
# A share of one processor at which the victim needs seconds for what it does in a fraction of one.
SLOW = 0.06


@dataclass(frozen=True)
class Fault:
    """What happens to a component, and what puts it right.

    Attributes:
        reason: by moment, what work must say that cannot end well.
        lenient: it may end well, if what it still had to write found room in what its files had already taken.
    """

    strike: Callable[[Grid], None]
    mend: Callable[[Grid], None]
    victim: str = VICTIM
    reason: dict[str, str] = field(default_factory=dict)
    lenient: bool = False


def _after_a_while(mend: Callable[[Grid], None]) -> Callable[[Grid], None]:
    def later(grid: Grid) -> None:
        time.sleep(AWAY)
        mend(grid)

    return later


def _kill(grid: Grid) -> None:
    # Before, because the limit of a container that is being restarted cannot be changed.
    grid.quick(VICTIM)
    grid.crash(VICTIM)


def _fill(name: str) -> Callable[[Grid], None]:
    def strike(grid: Grid) -> None:
        grid.fill(name)
        grid.quick(VICTIM)

    return strike


_FULL = r"(no space left|disk is full)"
FAULTS = {
    "worker killed": Fault(_kill, lambda grid: grid.up(VICTIM)),
    "worker hung": Fault(lambda grid: grid.hang(VICTIM), _after_a_while(lambda grid: grid.wake(VICTIM))),
    "TTP killed": Fault(lambda grid: grid.crash(TTP), lambda grid: grid.up(TTP), TTP),
    "network of a worker cut": Fault(lambda grid: grid.cut(VICTIM), _after_a_while(lambda grid: grid.plug(VICTIM))),
    # A worker writes nothing during training.
    "disk full at a worker": Fault(
        _fill(VICTIM),
        lambda grid: grid.free(VICTIM),
        reason=dict.fromkeys(("poll", "validation"), f"worker_1.*{_FULL}"),
    ),
    "disk full at the TTP": Fault(
        _fill(TTP),
        lambda grid: grid.free(TTP),
        TTP,
        reason=dict.fromkeys(("poll", "training", "validation"), _FULL),
        lenient=True,
    ),
}


def _work(grid: Grid, reference: Reference, moment: str, case: str) -> Work:
    if moment == "poll":
        grid.project(case)
        return grid.alignment(case)
    if moment == "training":
        grid.run(reference.project_id, case, **LONG)
        return grid.training(reference.project_id, case)
    return grid.validation(reference.project_id, "long")


@pytest.mark.parametrize("moment", ["poll", "training", "validation"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault(grid: Grid, reference: Reference, name: str, moment: str) -> None:
    fault = FAULTS[name]
    reason = fault.reason.get(moment)
    work = _work(grid, reference, moment, f"{moment}-{name}".replace(" ", "_"))
    if moment != "training":
        grid.slow(VICTIM, SLOW)
    job = grid.start(work)
    wait_for(f"the middle of {moment}", lambda: work.reached(job))
    before = len(job.rounds)
    struck = time.monotonic()
    try:
        fault.strike(grid)
        refused = job.reply() if reason else None
    finally:
        fault.mend(grid)
        grid.quick(VICTIM)
    back, by_then = time.monotonic(), len(job.rounds)
    if reason and (refused or not fault.lenient):
        outcome = "fails with its reason, then same figures"
        ended = job.ended()
        assert refused and ended["state"] == "failed" and ended["reason"] == refused.message, ended
        assert re.search(reason, refused.message, re.IGNORECASE), refused
        grid.idle()
        grid.do(work)
    else:
        outcome = "same figures"
        if moment == "training":
            wait_for("another round", lambda: len(job.rounds) > by_then or job.record["state"] == "done")
            went_on = time.monotonic()
        ended = job.ended()
        assert ended["state"] == "done", ended
        assert fault.victim == TTP or job.reply() is None
        if moment == "training":
            _check_rounds(grid, job, fault, before)
    recovered = went_on if moment == "training" and outcome == "same figures" else time.monotonic()
    assert work.figures() == reference.figures[moment]
    report(name, moment, outcome, f"{back - struck:.1f}", f"{recovered - back:.1f}")


def _check_rounds(grid: Grid, job: Job, fault: Fault, before: int) -> None:
    rounds = job.rounds
    assert [each["round"] for each in rounds] == list(range(1, LONG["rounds"] + 1))
    assert all(set(each["participants"]) == set(WORKERS) for each in rounds)
    if fault.victim == TTP:
        assert grid.rounds_since_start()[0] > before, "the run began anew"
