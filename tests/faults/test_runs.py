"""Runs with participants who stay away, runs that are called off, and runs that wait for each other."""

from __future__ import annotations

import os
import time

import dataset
import pytest
from conftest import LONG, SHORT, Reference, report
from grid import COLLAB, EXPT, FOLDER, TTP, WORKERS, Grid, Refused, wait_for

GRACE = 3
FIRST = WORKERS["worker_1"]
ENDLESS = 1000
AWAY = {
    "killed": (lambda grid: grid.container(FIRST).kill(), lambda grid: grid.container(FIRST).start()),
    "hung": (lambda grid: grid.hang(FIRST), lambda grid: grid.wake(FIRST)),
    "cut": (lambda grid: grid.cut(FIRST), lambda grid: grid.plug(FIRST)),
}


def _left_out(rounds: list[dict]) -> list[list[str]]:
    return [each["left_out"] for each in rounds]


@pytest.mark.parametrize("way", AWAY)
def test_who_stays_away_fails_the_run(grid: Grid, reference: Reference, way: str) -> None:
    leave, come_back = AWAY[way]
    run_id = f"away-{way}"
    grid.run(reference.project_id, run_id, **LONG, grace=GRACE)
    job = grid.start(work := grid.training(reference.project_id, run_id))
    wait_for("the third round", lambda: work.reached(job))
    leave(grid)
    struck = time.monotonic()
    try:
        refused, ended = job.reply(), job.ended()
        told = time.monotonic() - struck
        assert ended["state"] == "failed" and "worker_1" in ended["reason"], ended
        assert refused is not None and refused.message == ended["reason"]
        assert "worker_2" not in ended["reason"] and "worker_3" not in ended["reason"]
        assert not grid.folder(reference.project_id, run_id).exists() or not list(
            grid.folder(reference.project_id, run_id).iterdir()
        )
        grid.idle("worker_2", "worker_3")
    finally:
        come_back(grid)
        grid.up(FIRST)
    report(f"worker {way} for longer than grace, {GRACE} s", "training", "fails with its name", "ever", f"{told:.1f}")
    grid.idle()
    assert grid.do(work) == reference.figures["training"]


def test_who_stays_away_is_left_out_where_the_run_allows_it(grid: Grid, reference: Reference) -> None:
    grid.run(reference.project_id, "without", **LONG, grace=GRACE, min_participants=2)
    job = grid.start(work := grid.training(reference.project_id, "without"))
    wait_for("the third round", lambda: work.reached(job))
    grid.container(FIRST).kill()
    killed = time.monotonic()
    try:
        wait_for("a round without worker_1", lambda: ["worker_1"] in _left_out(job.rounds))
        went_on = time.monotonic() - killed
        ended = job.ended()
        assert ended["state"] == "done" and job.reply() is None, ended
        rounds = job.rounds
        assert [each["round"] for each in rounds] == list(range(1, LONG["rounds"] + 1))
        away = _left_out(rounds)
        assert away == sorted(away) and away[0] == [] and away[-1] == ["worker_1"]
        assert set(rounds[-1]["participants"]) == {"worker_2", "worker_3"}
        assert rounds[-1]["train_loss"] < rounds[0]["train_loss"]
    finally:
        grid.container(FIRST).start()
        grid.up(FIRST)
    report(
        f"worker killed for longer than grace, {GRACE} s", "training", "goes on without it", "ever", f"{went_on:.1f}"
    )


def test_too_few_who_stay_fail_the_run(grid: Grid, reference: Reference) -> None:
    grid.run(reference.project_id, "few", **LONG, grace=GRACE, min_participants=2)
    job = grid.start(work := grid.training(reference.project_id, "few"))
    wait_for("the third round", lambda: work.reached(job))
    away = ("worker_1", "worker_3")
    try:
        for name in away:
            grid.container(WORKERS[name]).kill()
        ended = job.ended()
        assert ended["state"] == "failed" and all(name in ended["reason"] for name in away), ended
    finally:
        for name in away:
            grid.container(WORKERS[name]).start()
            grid.up(WORKERS[name])


def test_who_was_left_out_is_taken_back(grid: Grid, reference: Reference) -> None:
    grid.run(reference.project_id, "back", rounds=60, patience=60, grace=1, min_participants=2)
    job = grid.start(work := grid.training(reference.project_id, "back"))
    wait_for("the third round", lambda: work.reached(job))
    grid.container(FIRST).kill()
    try:
        wait_for("a round without worker_1", lambda: ["worker_1"] in _left_out(job.rounds))
    finally:
        grid.container(FIRST).start()
    grid.up(FIRST)
    back = time.monotonic()
    wait_for("a round with worker_1 again", lambda: (rounds := job.rounds)[-1]["left_out"] == [] and rounds)
    report("worker away and back", "training", "left out, taken back", "-", f"{time.monotonic() - back:.1f}")
    ended = job.ended()
    assert ended["state"] == "done", ended
    assert set(job.rounds[-1]["participants"]) == set(WORKERS)


@pytest.mark.parametrize("moment", ["poll", "training", "validation"])
def test_who_never_answered_is_named_soon(grid: Grid, reference: Reference, moment: str) -> None:
    grid.run(reference.project_id, f"never-{moment}", **SHORT)
    work = {
        "poll": grid.alignment(reference.project_id),
        "training": grid.training(reference.project_id, f"never-{moment}"),
        "validation": grid.validation(reference.project_id, "long"),
    }[moment]
    grid.container(FIRST).kill()
    try:
        began = time.monotonic()
        refused = grid.start(work).reply()
        assert refused is not None and "worker_1" in refused.message and "worker_2" not in refused.message
        report("worker was never there", moment, "fails with its name", "ever", f"{time.monotonic() - began:.1f}")
    finally:
        grid.container(FIRST).start()
        grid.up(FIRST)


def test_a_poll_that_was_lost_is_not_answered_from_older_data(grid: Grid) -> None:
    """What a worker prepared from earlier files must not be taken for the answer to a poll that died with it."""
    table = FOLDER / "datasets" / dataset.NAME / "dataset" / "data1" / "train" / f"{dataset.NAME}.csv"
    lines = table.read_text().splitlines(keepends=True)
    grid.project("older")
    grid.do(grid.alignment("older"))
    try:
        table.write_text("".join(lines[:5001]))
        grid.slow(FIRST, 0.06)
        job = grid.start(work := grid.alignment("older"))
        wait_for("the middle of the poll", lambda: work.reached(job))
        grid.quick(FIRST)
        grid.crash(FIRST)
        assert job.ended()["state"] == "done"
        grid.project("newer")
        grid.do(grid.alignment("newer"))
    finally:
        table.write_text("".join(lines))
    for project_id in ("older", "newer"):
        grid.run(project_id, "short", **SHORT)
    assert grid.do(grid.training("older", "short")) == grid.do(grid.training("newer", "short"))


@pytest.mark.parametrize("moment", ["poll", "training", "validation"])
def test_a_job_can_be_called_off(grid: Grid, reference: Reference, moment: str) -> None:
    case = f"off-{moment}"
    if moment == "poll":
        grid.project(case)
        work = grid.alignment(case)
    elif moment == "training":
        grid.run(reference.project_id, case, rounds=ENDLESS, patience=ENDLESS)
        work = grid.training(reference.project_id, case)
    else:
        work = grid.validation(reference.project_id, "long")
    grid.slow(FIRST, 0.06)
    try:
        job = grid.start(work)
        wait_for(f"the middle of {moment}", lambda: work.reached(job))
        began = time.monotonic()
        grid.call("DELETE", f"jobs/{job.job_id}")
        refused, ended = job.reply(), job.ended()
        assert ended["state"] == "cancelled" and ended["reason"], ended
        assert refused is not None and refused.status == 409 and "cancel" in refused.message.lower()
    finally:
        grid.quick(FIRST)
    grid.idle()
    report("DELETE of the job", moment, "cancelled, workers free", "-", f"{time.monotonic() - began:.1f}")
    with pytest.raises(Refused) as error:
        grid.call("DELETE", f"jobs/{job.job_id}")
    assert 400 <= error.value.status < 500
    if moment == "training":
        folder = grid.folder(reference.project_id, case)
        assert not folder.exists() or not list(folder.iterdir())


def test_a_queue_survives_the_ttp(grid: Grid, reference: Reference) -> None:
    """Three runs in line and a fourth that is called off while it waits; the TTP is killed during the first."""
    names = [f"queue_{number}" for number in range(4)]
    jobs = []
    for name in names:
        grid.run(reference.project_id, name, **LONG)
        jobs.append(grid.start(grid.training(reference.project_id, name)))
    wait_for("the third round of the first", lambda: jobs[0].work.reached(jobs[0]))
    assert [job.record["state"] for job in jobs] == ["running", "queued", "queued", "queued"]
    grid.call("DELETE", f"jobs/{jobs[2].job_id}")
    assert jobs[2].record["state"] == "cancelled"
    grid.crash(TTP)
    grid.up(TTP)
    back = time.monotonic()
    ended = [job.ended() for job in jobs]
    assert [record["state"] for record in ended] == ["done", "done", "cancelled", "done"], ended
    began = [ended[number]["started_at"] for number in (0, 1, 3)]
    assert began == sorted(began)
    for number in (0, 1, 3):
        assert jobs[number].work.figures() == reference.figures["training"]
    report("TTP killed with a queue", "training", "all in order, same figures", "-", f"{time.monotonic() - back:.1f}")


def test_everything_is_killed_at_once(grid: Grid, reference: Reference) -> None:
    """As by a power cut, after which everything comes up by itself and in any order."""
    grid.run(reference.project_id, "dark", **LONG)
    job = grid.start(work := grid.training(reference.project_id, "dark"))
    wait_for("the third round", lambda: work.reached(job))
    names = (TTP, *WORKERS.values())
    struck = time.monotonic()
    for name in names:
        grid.crash(name)
    for name in names:
        grid.up(name)
    back = time.monotonic()
    assert job.ended()["state"] == "done"
    assert work.figures() == reference.figures["training"]
    report("all killed at once", "training", "same figures", f"{back - struck:.1f}", f"{time.monotonic() - back:.1f}")


def test_a_ttp_that_is_restarted_goes_on(grid: Grid, reference: Reference) -> None:
    """A planned stop, as of an upgrade, costs no more than a kill."""
    grid.run(reference.project_id, "restarted", **LONG)
    job = grid.start(work := grid.training(reference.project_id, "restarted"))
    wait_for("the third round", lambda: work.reached(job))
    struck = time.monotonic()
    grid.container(TTP).restart()
    grid.up(TTP)
    back = time.monotonic()
    assert job.ended()["state"] == "done"
    assert work.figures() == reference.figures["training"]
    assert grid.rounds_since_start()[0] > 3, "the run began anew"
    report("TTP restarted", "training", "same figures", f"{back - struck:.1f}", f"{time.monotonic() - back:.1f}")


@pytest.mark.parametrize(
    ("component", "moment"), [(TTP, "training"), (FIRST, "poll"), (FIRST, "validation")], ids=lambda value: value
)
def test_an_unwritable_folder_is_a_clear_failure(grid: Grid, reference: Reference, component: str, moment: str) -> None:
    case = f"shut-{moment}"
    grid.project(case)
    grid.run(reference.project_id, case, **SHORT)
    work = {
        "poll": grid.alignment(case),
        "training": grid.training(reference.project_id, case),
        "validation": grid.validation(reference.project_id, "long"),
    }[moment]
    folder = FOLDER / "disks" / component / "outputs" / COLLAB
    folder = folder if moment == "poll" else folder / reference.project_id / ("." if component == FIRST else EXPT)
    owner = folder.stat()
    os.chown(folder, 0, 0)
    try:
        began = time.monotonic()
        with pytest.raises(Refused, match=r"(?i)permission denied") as error:
            grid.do(work)
        assert COLLAB in error.value.message
        assert component == TTP or "worker_1" in error.value.message
    finally:
        os.chown(folder, owner.st_uid, owner.st_gid)
    name = f"{'TTP' if component == TTP else 'worker'} cannot write its folder"
    report(name, moment, "fails with its reason", "-", f"{time.monotonic() - began:.1f}")
    grid.do(work)
