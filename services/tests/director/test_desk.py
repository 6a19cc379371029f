"""Answers that come at the worst moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from synergos.director.desk import Desk
from synergos.federation.line import Cancellation
from synergos.orchestrator.database import Database, Records
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.parts import Part, Parts
from synergos.queue import Address, Completed, Job, Publisher

KEYS = ["c", "p", "e", "r"]


class Slow(Database):
    """A database during whose next read something else happens."""

    meanwhile = staticmethod(lambda: None)

    @contextmanager
    def read(self) -> Iterator[Records]:
        with super().read() as records:
            yield records
        then, self.meanwhile = self.meanwhile, lambda: None
        then()


class Office:
    """A desk with the records of jobs, and no broker."""

    def __init__(self, path: Path) -> None:
        self.database = Slow(f"sqlite:///{path / 'database.db'}")
        self.database.migrate()
        # Never connected: what is sent is not what is tested.
        self.desk = Desk(self.database, Publisher(Address("127.0.0.1", 1, "director", "x"), "director"))
        self.reopened: list[str] = []
        self.desk._reopen = self.reopened.append
        self.pool = ThreadPoolExecutor(10)

    def part(self, name: str, state: str) -> Job:
        """Store a part of a new job, in a state in which an earlier process left it."""
        with self.database.write() as records:
            job = Ledger(records).add("train", {"collab_id": "c", "project_id": "p"}, {})
            Parts(records).save(Part(job.job_id, name, state=state))  # type: ignore[arg-type]
        return Job(job_id=job.job_id, part=name, process="train", keys=KEYS, grids=[[]])

    def ask(self, message: Job) -> Future[Completed]:
        return self.pool.submit(self.desk.do, message, Cancellation())

    def stored(self, message: Job) -> Part:
        with self.database.read() as records:
            part = Parts(records).find(message.job_id, message.part)
        assert part is not None
        return part


def answer(message: Job) -> Completed:
    return Completed(job_id=message.job_id, part=message.part, grid=0, ttp="ttp", process="train", filters=KEYS)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.pool.shutdown(wait=False, cancel_futures=True)
    office.database.close()


@pytest.mark.parametrize("state", ["sending", "sent", "taken"])
def test_while_its_part_is_looked_up(office: Office, state: str) -> None:
    message = office.part("one", state)
    office.database.meanwhile = lambda: office.desk.take(answer(message))
    assert office.ask(message).result(10) == answer(message)
    assert office.stored(message).state == "answered"


def test_while_its_part_waits_to_be_sent_again(office: Office) -> None:
    """It was sent, and the process ended before that was noted; now others are in flight."""
    busy = [office.part(f"busy {number}", "sent") for number in range(office.desk.window)]
    others = [office.ask(message) for message in busy]
    message = office.part("sent once", "sending")
    waits = office.ask(message)
    with pytest.raises(TimeoutError):
        waits.result(0.5)
    office.desk.take(answer(message))
    assert waits.result(10) == answer(message)
    for other, each in zip(others, busy, strict=True):
        office.desk.take(answer(each))
        assert other.result(10) == answer(each)


def test_again_after_the_process_ended_before_its_job_was_taken_up(office: Office) -> None:
    """A dead letter that was put back is done: stored, but the job is still one that failed."""
    message = office.part("lost", "lost")
    office.desk.take(answer(message))
    office.desk.take(answer(message))
    assert office.reopened == [message.job_id] * 2
    # An older attempt is of no interest.
    with office.database.write() as records:
        Parts(records).save(replace(office.stored(message), attempt=2, state="sending", answer=None))
    office.desk.take(answer(message))
    assert len(office.reopened) == 2 and office.stored(message).state == "sending"


def test_a_grid_that_is_at_work(office: Office) -> None:
    message = office.part("taken", "taken")
    with office.database.write() as records:
        Parts(records).save(replace(office.stored(message), grid=1))
    waits = office.ask(message)
    known = threading.Event()
    while office.desk.at_work() != {1}:
        assert not known.wait(0.01) and not waits.done()
    office.desk.take(answer(message))
    waits.result(10)
    assert office.desk.at_work() == set()
