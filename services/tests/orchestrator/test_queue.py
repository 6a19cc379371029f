"""Jobs over REST: queue, progress, cancellation, failures, and what another start makes of unfinished ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from grid_double import (
    COLLAB,
    EXPERIMENT,
    FakeEngine,
    Grid,
    PlainClient,
    progress,
    register,
    registration,
    running,
)

from synergos.errors import GridFailure
from synergos.orchestrator import ledger
from synergos.orchestrator.database import Database
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.queue import ATTEMPTS, Task

ALIGN = "train/collaborations/c1/projects/p1/alignments"
MODELS = "train/collaborations/c1/projects/p1/models"
VALIDATIONS = "evaluate/collaborations/c1/projects/p1/validations"
PREDICTIONS = "evaluate/participants/worker_1/collaborations/c1/predictions"
SCOPE = {"collab_id": "c1", "project_id": "p1"}
R1 = {"project_id": "p1", "expt_id": "e1", "run_id": "r1"}
R2 = {**R1, "run_id": "r2"}


@pytest.fixture
def pool(grid: Grid) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as result:
        yield result
        grid.engine.gate.set()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def describe(client: PlainClient) -> None:
    """A project with two runs, aligned."""
    register(client)
    client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r2"})
    client.ok("POST", ALIGN, {})


def post(pool: ThreadPoolExecutor, grid: Grid, path: str, body: Any = None) -> Future[httpx.Response]:
    """Send a job from a client of its own; returns when it is queued."""
    client, before = PlainClient(grid.url), len(jobs(grid))
    answer = pool.submit(client, "POST", path, {} if body is None else body)
    until(lambda: len(jobs(grid)) > before or answer.done())
    return answer


def jobs(grid: Grid, **filters: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    found: list[dict[str, Any]] = PlainClient(grid.url).ok("GET", f"jobs?{query}")
    return found


def test_progress_of_a_training(client: PlainClient, grid: Grid, pool: ThreadPoolExecutor) -> None:
    describe(client)
    grid.engine.gate.clear()
    answer = post(pool, grid, MODELS)
    until(lambda: grid.engine.inside)
    [_, listed] = jobs(grid)
    part = {"loss": 1.0, "rows": 40, "seconds": 0.01}
    first = {
        "expt_id": "e1",
        "run_id": "r1",
        "round": 1,
        "rounds": 2,
        "seconds": 0.02,
        "train_loss": 1.0,
        "previous_evaluate_loss": None,
        "participants": {"worker_1": part, "worker_2": part},
        "left_out": [],
    }
    until(lambda: len(client.ok("GET", f"jobs/{listed['job_id']}")["progress"]["rounds"]) == 2)
    job = client.ok("GET", f"jobs/{listed['job_id']}")
    assert job["progress"]["rounds"][0] == first
    assert (job["process"], job["state"], job["key"]) == ("train", "running", {"job_id": job["job_id"], **SCOPE})
    assert (job["progress"]["current"], job["progress"]["finished"]) == (R1, [])
    assert job["order"]["auto_align"] is True
    assert "ended_at" not in job
    grid.engine.gate.set()
    assert answer.result().is_success
    # From memory or from the database, it is the same; the end is stored before it is told.
    job = client.ok("GET", f"jobs/{listed['job_id']}")
    assert (job["state"], job["progress"]["finished"]) == ("done", [R1, R2])
    assert "current" not in job["progress"]
    assert [(item["run_id"], item["round"]) for item in job["progress"]["rounds"]] == [
        ("r1", 1),
        ("r1", 2),
        ("r2", 1),
        ("r2", 2),
    ]
    assert job["progress"]["rounds"][0] == first
    assert job["created_at"] <= job["started_at"] <= job["ended_at"]
    assert job["ended_at"].endswith("Z")
    assert "rounds" not in jobs(grid)[-1]["progress"]


def test_jobs_wait_in_order_of_arrival(client: PlainClient, grid: Grid, pool: ThreadPoolExecutor) -> None:
    describe(client)
    grid.engine.gate.clear()
    first = post(pool, grid, f"{MODELS}/e1/r1")
    until(lambda: grid.engine.inside)
    others = [post(pool, grid, path) for path in (f"{MODELS}/e1/r2", f"{VALIDATIONS}/e1/r1", ALIGN)]
    assert [(job["process"], job["state"], job.get("place")) for job in jobs(grid)][1:] == [
        ("train", "running", None),
        ("train", "queued", 1),
        ("validate", "queued", 2),
        ("align", "queued", 3),
    ]
    assert [job["process"] for job in jobs(grid, state="queued")] == ["train", "validate", "align"]
    assert [job["state"] for job in jobs(grid, run_id="r1")] == ["running", "queued"]
    assert [job["state"] for job in jobs(grid, run_id="r1", process="validate")] == ["queued"]
    assert jobs(grid, collab_id="c2") == []
    grid.engine.gate.set()
    assert all(answer.result().is_success for answer in (first, *others))
    assert [name for name, _ in grid.engine.jobs] == ["align", "train", "train", "infer", "align"]
    assert {job["state"] for job in jobs(grid)} == {"done"}


def test_cancelling(client: PlainClient, grid: Grid, pool: ThreadPoolExecutor) -> None:
    describe(client)
    before = grid.snapshot()
    grid.engine.gate.clear()
    answers = [post(pool, grid, path) for path in (MODELS, VALIDATIONS, f"{MODELS}/e1/r2")]
    until(lambda: grid.engine.inside)
    _, running_job, queued, last = (job["job_id"] for job in jobs(grid))
    gone = client.ok("DELETE", f"jobs/{queued}")
    assert (gone["state"], "started_at" in gone, gone["reason"]) == (
        "cancelled",
        False,
        f"Cancelled by DELETE /ttp/jobs/{queued}.",
    )
    assert client.ok("GET", f"jobs/{last}")["place"] == 1
    response = client("DELETE", f"jobs/{running_job}/")
    assert (response.status_code, response.json()["data"]["state"]) == (200, "cancelled")
    for answer, job_id in zip(answers, (running_job, queued), strict=False):
        refused = answer.result()
        assert (refused.status_code, refused.json()["data"]) == (409, [])
        assert refused.json()["message"] == f"Cancelled by DELETE /ttp/jobs/{job_id}."
    # The grid is free for the next.
    until(lambda: grid.engine.inside)
    grid.engine.gate.set()
    assert answers[2].result().is_success
    assert [job["state"] for job in jobs(grid)] == ["done", "cancelled", "cancelled", "done"]
    assert len(grid.snapshot()["Model"]) == len(before["Model"]) + 1
    late = client("DELETE", f"jobs/{last}")
    assert (late.status_code, late.json()["data"]) == (409, [])
    assert "has ended already (done)" in late.text
    for verb in ("GET", "DELETE"):
        unknown = client(verb, "jobs/0123")
        assert (unknown.status_code, "Job '0123' does not exist" in unknown.text) == (404, True)


def test_a_worker_that_takes_its_time_to_be_cancelled(
    client: PlainClient, grid: Grid, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(client)
    monkeypatch.setattr("synergos.orchestrator.jobs._CANCEL_SECONDS", 0.05)
    deaf: list[str] = []
    monkeypatch.setattr(FakeEngine, "cancel", lambda _, reason: deaf.append(reason))
    grid.engine.gate.clear()
    answer = post(pool, grid, MODELS)
    until(lambda: grid.engine.inside)
    job_id = jobs(grid)[-1]["job_id"]
    response = client("DELETE", f"jobs/{job_id}")
    assert (response.status_code, response.json()["data"]["state"]) == (202, "running")
    assert "is being cancelled" in response.json()["data"]["note"]
    until(lambda: deaf)
    grid.engine.gate.set()
    # Whatever the engine brings now, nothing of it is stored.
    assert answer.result().status_code == 409
    assert (client.ok("GET", f"jobs/{job_id}")["state"], grid.snapshot()["Model"]) == ("cancelled", [])


def test_a_job_goes_on_when_the_client_is_gone(client: PlainClient, grid: Grid) -> None:
    describe(client)
    grid.engine.gate.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{grid.url}/ttp/{MODELS}", json={}, timeout=0.3)
    assert jobs(grid)[-1]["state"] == "running"
    grid.engine.gate.set()
    until(lambda: jobs(grid)[-1]["state"] == "done")
    assert len(client.ok("GET", MODELS)) == 2


def test_failures_state_their_reason(client: PlainClient, grid: Grid) -> None:
    describe(client)
    grid.engine.failing["train"] = GridFailure("worker_2 did not come back within 60 s.")
    assert client("POST", MODELS, {}).status_code == 417
    grid.engine.failing["train"] = ValueError("/a/secret")
    assert client("POST", MODELS, {}).json()["message"] == "Internal error, see the TTP's log."
    client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r3"})
    grid.engine.failing.clear()
    client.ok("PUT", f"{registration('worker_1')}/tags", {"train": [["other"]]})
    assert client("POST", MODELS, {}).status_code == 417
    expected, defect, unaligned = jobs(grid, state="failed")
    assert expected["reason"] == "worker_2 did not come back within 60 s."
    assert (expected["progress"]["current"], expected["progress"]["finished"]) == (R1, [])
    assert defect["reason"] == "Internal error, see the TTP's log."
    assert "not aligned for worker_1" in unaligned["reason"]
    # What can be seen to be wrong at once makes no job.
    assert client("POST", f"{MODELS}/e1/nix", {}).status_code == 404
    assert client("POST", PREDICTIONS.replace("worker_1", "nix"), {"tags": {"p1": [["x"]]}}).status_code == 404
    assert len(jobs(grid)) == 4


def test_jobs_of_deleted_records(client: PlainClient, grid: Grid, pool: ThreadPoolExecutor) -> None:
    describe(client)
    client.ok("POST", f"{MODELS}/e1/r1", {})
    client.ok("POST", f"{MODELS}/e1/r2", {})
    grid.engine.gate.clear()
    answers = [post(pool, grid, f"{path}/e1/r1") for path in (MODELS, VALIDATIONS)]
    until(lambda: grid.engine.inside)
    client.ok("DELETE", f"{EXPERIMENT}/runs/r1")
    assert [answer.result().status_code for answer in answers] == [409, 409]
    grid.engine.gate.set()
    # The history of r1 went with it; what was under way is told why it ended.
    found = jobs(grid)
    assert [(job["process"], job["key"].get("run_id"), job["state"]) for job in found] == [
        ("align", None, "done"),
        ("train", "r2", "done"),
        ("train", "r1", "cancelled"),
        ("validate", "r1", "cancelled"),
    ]
    assert "run 'r1') was deleted" in found[-1]["reason"]
    client.ok("DELETE", COLLAB)
    assert jobs(grid) == []


def test_filters(client: PlainClient, grid: Grid) -> None:
    for query, fragment in (("state=lost", "state: input should be 'queued'"), ("stat=done", "stat: unknown field")):
        refused = client("GET", f"jobs?{query}")
        assert (refused.status_code, fragment in refused.json()["message"]) == (417, True), refused.text


@contextmanager
def disk(pragmas: list[str]) -> Iterator[None]:
    """Give every connection the last of `pragmas` before it is used."""

    def each(connection: Any, _: Any, __: Any) -> None:
        connection.execute(f"PRAGMA {pragmas[-1]}")

    sa.event.listen(sa.pool.Pool, "checkout", each)
    try:
        yield
    finally:
        sa.event.remove(sa.pool.Pool, "checkout", each)


def test_a_read_only_database(tmp_path: Path) -> None:
    pragmas = ["query_only=OFF"]
    with disk(pragmas), running(tmp_path) as grid, ThreadPoolExecutor() as pool:
        client = PlainClient(grid.url)
        describe(client)
        before = grid.snapshot()
        grid.engine.gate.clear()
        answers = [post(pool, grid, path) for path in (MODELS, f"{MODELS}/e1/r1")]
        until(lambda: grid.engine.inside)
        ended, waiting = (job["job_id"] for job in jobs(grid)[1:])
        pragmas.append("query_only=ON")
        for verb, path, body in (
            ("PUT", EXPERIMENT, {"model": []}),
            ("POST", MODELS, {}),
            ("DELETE", f"jobs/{waiting}", None),
            ("DELETE", COLLAB, None),
        ):
            refused = client(verb, path, body)
            assert (refused.status_code, refused.json()["data"]) == (507, []), refused.text
            assert "attempt to write a readonly database. Nothing was changed" in refused.json()["message"]
        assert [job["state"] for job in jobs(grid)] == ["done", "running", "queued"]
        grid.engine.gate.set()
        # The model cannot be stored. The client is told so, and the record says so as soon as it can be written.
        assert [answer.result().status_code for answer in answers] == [507, 507]
        assert [job["state"] for job in jobs(grid)] == ["done", "failed", "failed"]
        assert grid.snapshot() == before
        pragmas.append("query_only=OFF")
        client.ok("POST", f"{MODELS}/e1/r2", {})
        with grid.database.read() as records:
            stored = Ledger(records).get(ended)
        assert (stored.state, "readonly database" in str(stored.reason)) == ("failed", True)


def test_a_full_disk(tmp_path: Path) -> None:
    pragmas = ["max_page_count=1073741823"]
    with disk(pragmas), running(tmp_path) as grid:
        client = PlainClient(grid.url)
        describe(client)
        before = grid.snapshot()
        # No page more than there are.
        pragmas.append("max_page_count=1")
        refused = client("PUT", "connect/participants/worker_1", {"summary": "x" * 1_000_000})
        assert (refused.status_code, "database or disk is full" in refused.text) == (507, True), refused.text
        tags = {"tags": {"p1": [["x" * 120] * 5000]}}
        refused = client("POST", f"{PREDICTIONS}/p1", tags)
        assert (refused.status_code, "database or disk is full" in refused.text) == (507, True), refused.text
        assert (grid.snapshot(), len(jobs(grid))) == (before, 1)
        pragmas.append("max_page_count=1073741823")
        client.ok("POST", MODELS, {})


def test_stopping_and_starting_again(tmp_path: Path) -> None:
    with running(tmp_path) as grid, ThreadPoolExecutor() as pool:
        client = PlainClient(grid.url)
        describe(client)
        grid.engine.gate.clear()
        answers = [post(pool, grid, path) for path in (MODELS, VALIDATIONS)]
        until(lambda: grid.engine.inside)
        grid.app.state.jobs.stop()
        for answer in answers:
            assert answer.result().status_code == 503
            assert "goes on at its start" in answer.result().text
        assert client("POST", MODELS, {}).status_code == 503
        ids = [job["job_id"] for job in jobs(grid)]
        # As when the workers are stopped along with the TTP.
        grid.engine.failing["train"] = GridFailure("worker_1 is gone.")
    with running(tmp_path) as grid:
        until(lambda: {job["state"] for job in jobs(grid)} == {"done"})
        assert [job["job_id"] for job in jobs(grid)] == ids
        assert [name for name, _ in grid.engine.jobs] == ["train", "train", "infer", "infer"]


def test_rounds_that_are_told_again_count_once(tmp_path: Path) -> None:
    """A TTP that is killed has not stored its newest rounds; the engine tells all of them again when it goes on."""
    database = Database(f"sqlite:///{tmp_path / 'database.db'}")
    database.migrate()

    def stored() -> list[tuple[int, float]]:
        with database.read() as records:
            return [(item["round"], item["seconds"]) for item in Ledger(records).rounds(job.job_id)]

    with database.write() as records:
        job = Ledger(records).add("train", SCOPE, {})
    job.current, job.attempts = R1, 2
    known = [{"expt_id": "e1", "run_id": "r1", **progress(number, ["worker_1"]).model_dump()} for number in (1, 2)]
    with database.write() as records:
        Ledger(records).add_rounds(job.job_id, known)
    task = Task(job, database, FakeEngine(), known)
    for number in (1, 2):
        task.take_in(R1, progress(number, ["worker_1"]))
    task.flush()
    assert job.attempts == 2, "a job that only tells what was known has not got on"
    for number in (1, 2, 3):
        task.take_in(R1, progress(number, ["worker_1"]))
    task.flush()
    task.take_in(R1, progress(3, ["worker_1"]).model_copy(update={"seconds": 7.0}))
    task.flush()
    assert [number for number, _ in stored()] == [1, 2, 3] and stored()[-1] == (3, 7.0)
    assert [item["round"] for item in task.rounds()] == [1, 2, 3] and job.attempts == 0
    # Another grid took it over before the newest rounds were stored.
    task.take_in(R1, progress(4, ["worker_1"]))
    for number in (1, 2):
        task.take_in(R1, progress(number, ["worker_1"]).model_copy(update={"seconds": 9.0}))
    task.flush()
    assert stored() == [(1, 9.0), (2, 9.0)] and [item["round"] for item in task.rounds()] == [1, 2]
    database.close()


def test_jobs_that_cannot_be_taken_up_again(tmp_path: Path) -> None:
    with running(tmp_path) as grid:
        describe(PlainClient(grid.url))
        with grid.database.write() as records:
            book = Ledger(records)
            poison = book.add("train", SCOPE, {})
            poison.state, poison.attempts = "running", ATTEMPTS
            book.save(poison)
            book.add("train", {**SCOPE, "expt_id": "nix"}, {})
            # One run of it is finished and stays so.
            half = book.add("train", SCOPE, {})
            half.state, half.finished = "running", [R1]
            book.save(half)
            book.add_rounds(half.job_id, [{**R1, **progress(number, ["worker_1"]).model_dump()} for number in (1, 2)])
            # The engine begins one round earlier than was told.
            book.add_rounds(half.job_id, [{**R2, **progress(number, ["worker_1"]).model_dump()} for number in (1, 2)])
    with running(tmp_path) as grid:
        until(lambda: not [job for job in jobs(grid) if job["state"] in ("queued", "running")])
        _, poisoned, orphan, rest = jobs(grid)
        assert (poisoned["state"], "ended 3 times while it did this job" in poisoned["reason"]) == ("failed", True)
        assert (orphan["state"], "experiment 'nix') does not exist" in orphan["reason"]) == ("failed", True)
        assert rest["state"] == "done"
        assert [job.run_id for _, job in grid.engine.jobs] == ["r2"]
        rounds = PlainClient(grid.url).ok("GET", f"jobs/{rest['job_id']}")["progress"]["rounds"]
        assert [(item["run_id"], item["round"]) for item in rounds] == [("r1", 1), ("r1", 2), ("r2", 1), ("r2", 2)]
        assert set(rounds[-1]["participants"]) == {"worker_1", "worker_2"}


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in (("KEPT_JOBS", 3), ("KEPT_ROUNDS", 4), ("KEPT_ROUNDS_IN_ALL", 6)):
        monkeypatch.setattr(ledger, name, bound)
    database = Database(f"sqlite:///{tmp_path / 'database.db'}")
    database.migrate()
    rounds = [{**R1, **progress(number, ["w"]).model_dump()} for number in range(1, 8)]
    with database.write() as records:
        book = Ledger(records)
        waiting = book.add("train", SCOPE, {})
        added = [book.add("train", SCOPE, {}) for _ in range(5)]
        for job in added:
            book.add_rounds(job.job_id, rounds[:3])
            book.add_rounds(job.job_id, rounds[3:])
            assert [item["round"] for item in book.rounds(job.job_id)] == [4, 5, 6, 7]
            job.state = "done"
            book.save(job)
            book.forget_old()
        assert [job.job_id for job in book.select({})] == [waiting.job_id, *(job.job_id for job in added[2:])]
        assert [len(book.rounds(job.job_id)) for job in added[2:]] == [0, 2, 4]
