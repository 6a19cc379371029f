"""Every fault at every moment: the work ends as if nothing had happened, or says clearly why it cannot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from conftest import LONG, Reference, report
from grid import TTP, WORKERS, Grid, Work, wait_for

VICTIM = "synf_worker_1"
# Longer than a TCP retransmission, shorter than the runs' grace.
AWAY = 5.0
# A share of one processor at which the victim needs seconds for what it does in a fraction of one.
SLOW = 0.06


@dataclass(frozen=True)
class Fault:
    """What happens to a component, and what puts it right. `reason` is what failed work must say, by moment."""

    strike: Callable[[Grid], None]
    mend: Callable[[Grid], None]
    victim: str = VICTIM
    reason: tuple[tuple[str, str], ...] = ()


def _after_a_while(mend: Callable[[Grid], None]) -> Callable[[Grid], None]:
    def later(grid: Grid) -> None:
        time.sleep(AWAY)
        mend(grid)

    return later


_FULL = r"(no space left|disk is full)"
FAULTS = {
    "worker killed": Fault(lambda grid: grid.crash(VICTIM), lambda grid: grid.up(VICTIM)),
    "worker hung": Fault(
        lambda grid: grid.container(VICTIM).pause(), _after_a_while(lambda grid: grid.container(VICTIM).unpause())
    ),
    "TTP killed": Fault(lambda grid: grid.crash(TTP), lambda grid: grid.up(TTP), TTP),
    "network of a worker cut": Fault(lambda grid: grid.cut(VICTIM), _after_a_while(lambda grid: grid.plug(VICTIM))),
    # A worker writes nothing during training.
    "disk full at a worker": Fault(
        lambda grid: grid.fill(VICTIM),
        lambda grid: grid.free(VICTIM),
        reason=(("poll", f"worker_1.*{_FULL}"), ("validation", f"worker_1.*{_FULL}")),
    ),
    "disk full at the TTP": Fault(
        lambda grid: grid.fill(TTP),
        lambda grid: grid.free(TTP),
        TTP,
        reason=(("poll", _FULL), ("training", _FULL), ("validation", _FULL)),
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
    fault, reason = FAULTS[name], dict(FAULTS[name].reason).get(moment)
    work = _work(grid, reference, moment, f"{moment}-{name}".replace(" ", "_"))
    if moment != "training":
        grid.slow(VICTIM, SLOW)
    job = grid.start(work)
    wait_for(f"the middle of {moment}", lambda: work.reached(job))
    before = len(job.rounds)
    struck = time.monotonic()
    # Before, because the limit of a container that is being restarted cannot be changed.
    grid.quick(VICTIM)
    try:
        fault.strike(grid)
        if reason:
            refused = job.reply()
            assert refused is not None, "the work ended well on a full disk"
            assert 400 <= refused.status < 600 and re.search(reason, refused.message, re.IGNORECASE), refused
    finally:
        fault.mend(grid)
    back = time.monotonic()
    if reason:
        failed = job.ended()
        assert failed["state"] == "failed" and re.search(reason, failed["reason"], re.IGNORECASE), failed
        grid.idle()
        assert grid.do(work) == reference.figures[moment]
    else:
        if moment == "training":
            wait_for("another round", lambda: len(job.rounds) > before + 1 or job.record["state"] != "running")
            recovered = time.monotonic()
        ended = job.ended()
        recovered = recovered if moment == "training" else time.monotonic()
        assert ended["state"] == "done", ended
        assert work.figures() == reference.figures[moment]
        if fault.victim != TTP:
            assert job.reply() is None
        if moment == "training":
            rounds = job.rounds
            assert [each["round"] for each in rounds] == list(range(1, LONG["rounds"] + 1))
            assert all(set(each["participants"]) == set(WORKERS) for each in rounds)
            if fault.victim == TTP:
                assert grid.rounds_since_start()[0] > before, "the run began anew"
    recovered = time.monotonic() if reason else recovered
    outcome = "fails with its reason, then same figures" if reason else "same figures"
    report(name, moment, outcome, f"{back - struck:.1f}", f"{max(0.0, recovered - back):.1f}")
