"""Which job is next, and the Director's command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synergos import cli
from synergos.artefacts import Keys, Store
from synergos.director.cluster import Cluster
from synergos.orchestrator.database import Database
from synergos.orchestrator.ledger import Job, Process, now
from synergos.queue import Address

WINDOW = 4


@pytest.fixture
def grids(tmp_path: Path) -> Iterator[Cluster]:
    database = Database(f"sqlite:///{tmp_path / 'database.db'}")
    address = Address("127.0.0.1", 5672, "director", "x")
    yield Cluster(database, address, "director", Store(tmp_path), Keys(tmp_path / "key"), 5000)
    database.close()


class Book:
    """Jobs as they are ordered."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, process: Process, path: str, participant: str | None = None) -> Job:
        self.count += 1
        ids = dict(zip(("collab_id", "project_id", "expt_id", "run_id"), path.split("/"), strict=False))
        if participant:
            ids["participant_id"] = participant
        return Job(self.count, f"{self.count}", process, ids, {}, "queued", now())


def order(grids: Cluster, waiting: list[Job], at_once: int = WINDOW) -> list[str]:
    """Return the ids of jobs in the order in which they begin if the oldest of `at_once` ends before each."""
    waiting, running, begun = list(waiting), [], []
    while waiting:
        while len(running) < at_once and (job := grids.choose(waiting, running)):
            waiting.remove(job)
            running.append(job)
            begun.append(job.job_id)
        if not running:
            break
        running.pop(0)
    return begun


def test_collaborations_take_turns(grids: Cluster) -> None:
    book = Book()
    waiting = [book.add("train", f"a/p/e/r{number}") for number in range(20)]
    waiting += [book.add("train", f"b/p/e/r{number}") for number in range(3)]
    begun = order(grids, waiting)
    assert begun[:WINDOW] == ["1", "21", "2", "22"]
    assert sorted(map(int, begun)) == list(range(1, 24))
    assert begun.index("23") < 8


def test_the_window_holds_per_queue(grids: Cluster) -> None:
    book = Book()
    running = [book.add("train", f"a/p/e/r{number}") for number in range(WINDOW)]
    waiting = [book.add("train", "a/p/e/r9"), book.add("validate", "a/p/e/r8"), book.add("align", "a/q")]
    chosen = []
    while job := grids.choose(waiting, running):
        waiting.remove(job)
        running.append(job)
        chosen.append(job.process)
    assert chosen == ["align", "validate"]
    assert [job.process for job in waiting] == ["train"]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (("train", "a/p"), ("validate", "a/p/e/r"), False),
        (("train", "a/p/e/r"), ("train", "a/p/e"), False),
        (("align", "a/p"), ("train", "a/p/e/r"), False),
        (("predict", "a", "w1"), ("predict", "a/p/e", "w1"), False),
        (("train", "a/p/e/r1"), ("train", "a/p/e/r2"), True),
        (("align", "a/p"), ("train", "a/q/e/r"), True),
        (("train", "a/p/e/r"), ("train", "b/p/e/r"), True),
        (("validate", "a/p"), ("validate", "a/p/e/r"), True),
        (("predict", "a/p", "w1"), ("predict", "a/p", "w2"), True),
        (("predict", "a/p", "w1"), ("validate", "a/p"), True),
    ],
)
def test_what_makes_something_goes_before_what_needs_it(
    grids: Cluster, first: tuple[Process, str], second: tuple[Process, str], together: bool
) -> None:
    book = Book()
    older, newer = book.add(*first), book.add(*second)
    chosen = grids.choose([older, newer], [])
    assert chosen is not None
    other = newer if chosen is older else older
    assert (grids.choose([other], [chosen]) is other) is together
    assert together or chosen is older


@pytest.mark.parametrize(
    ("component", "arguments", "fragment"),
    [
        ("director", [], "--queue rabbitmq HOST PORT is needed"),
        ("director", ["-mq", "rabbitmq", "172.20.0.16"], "expected 3 arguments"),
        ("ttp", ["-mq", "kafka", "172.20.0.16", "5672"], "'kafka' is not supported: use 'rabbitmq HOST PORT'"),
        ("ttp", ["-mq", "rabbitmq", "172.20.0.16", "0"], "PORT is a number from 1 to 65535, not '0'"),
        ("ttp", ["-g", "-1"], "--grid is at least 0"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], component: str, arguments: list[str], fragment: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(cli.parser(component), arguments)
    assert caught.value.code == 2
    assert fragment in capsys.readouterr().err


def test_flags() -> None:
    given = cli.parse(cli.parser("ttp"), ["-g", "1", "-mq", "rabbitmq", "172.20.0.16", "5672"])
    assert (given.queue, given.grid) == (("172.20.0.16", 5672), 1)
    assert cli.parse(cli.parser("ttp"), []).queue is None
    assert cli.parse(cli.parser("director"), ["reset"]).command == "reset"
