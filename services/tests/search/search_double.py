"""A Director whose grids are functions: what a search decides shows without any training."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from grid_double import FakeEngine, listening, progress

from synergos.artefacts import Keys, Store
from synergos.director.cluster import Cluster
from synergos.errors import Cancelled, GridFailure
from synergos.jobs import Engine, InferJob, InferResult, TrainJob, TrainResult, Watch
from synergos.orchestrator.app import create_app
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.ledger import Job
from synergos.queue import Address

ROUNDS = 10
URL = "/ttp/train/collaborations/c1/projects/p1/models/e1/optimizations"


def quality(lr: float) -> float:
    """Return the R2 of a learning rate: 1 at 0.01, less by the square of the decades away from it."""
    return 1 - (math.log10(lr) + 2) ** 2


class Functions(FakeEngine):
    """Trains and validates by `quality`.

    Attributes:
        seconds: that a round takes.
        trained: the learning rates that were trained with, in the order of the trainings' beginnings.
        fails: tells the reason why a training with some learning rate fails, if it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.trained: list[float] = []
        self.fails: Callable[[float], str | None] = lambda _: None
        self._cancelled: dict[str, str] = {}

    def of(self, job: Job) -> Engine:
        """Return what does one job."""
        return _One(self, job.job_id)


class _One(FakeEngine):
    def __init__(self, functions: Functions, job_id: str) -> None:
        super().__init__()
        self.functions, self.ended = functions, threading.Event()

    def cancel(self, reason: str) -> None:
        self.reason = reason
        self.ended.set()

    def train(self, job: TrainJob, watch: Watch | None = None) -> TrainResult:
        functions, lr = self.functions, job.parameters.get("lr", 0.001)
        functions.trained.append(lr)
        if reason := functions.fails(lr):
            raise GridFailure(reason)
        assert watch is not None
        for number in range(1, job.parameters["rounds"] + 1):
            functions.gate.wait(60)
            if self.ended.wait(functions.seconds):
                raise Cancelled(self.reason or "")
            item = progress(number, ["worker_1", "worker_2"], job.parameters["rounds"])
            loss = (1 - quality(lr)) / number if number > 1 else None
            watch(item.model_copy(update={"previous_evaluate_loss": loss}))
        return super().train(job)

    def infer(self, job: InferJob) -> InferResult:
        value = quality(job.parameters["lr"])
        figures = {"worker_1": value + 0.1, "worker_2": value - 0.1}
        return InferResult(
            results={name: {"statistics": {"R2": figures[name]}, "res_path": "x"} for name in job.participants}
        )


class Grids(Cluster):
    """Two grids that need no broker."""

    parallel = 4
    notice = None

    def __init__(self, database: Database, root: Path, functions: Functions) -> None:
        super().__init__(database, Address("127.0.0.1", 1, "x", "x"), "director", Store(root), Keys(root / "key"), 5000)
        self.functions = functions

    def start(self, reopen: Callable[[str], None]) -> None:
        """There is no broker."""

    def engine(self, job: Job) -> Engine:
        return self.functions.of(job)

    def note(self, jobs: Sequence[Job]) -> Mapping[str, Body]:
        return {job.job_id: {"parts": [{"part": "x", "grid": job.doc_id % 2}]} for job in jobs}


class Director:
    """A running Director.

    Attributes:
        functions: what its grids do.
        http: a client of it.
    """

    def __init__(self, http: httpx.Client, functions: Functions, database: Database) -> None:
        self.http, self.functions, self.database = http, functions, database

    def post(self, status: int = 200, **order: Any) -> Any:
        """Order a search; returns the answer."""
        body = {
            "search_space": {"lr": {"_type": "loguniform", "_value": [1e-5, 1.0]}},
            "metric": "R2",
            "optimize_mode": "max",
            "parameters": {"rounds": ROUNDS, "criterion": "MSELoss"},
            "seed": 1,
        }
        answer = self.http.post(URL, json={name: value for name, value in {**body, **order}.items() if value != ...})
        assert answer.status_code == status, answer.text
        return answer.json()

    def job(self, job_id: str) -> Any:
        return self.http.get(f"/ttp/jobs/{job_id}").json()["data"]

    def done(self, job_id: str) -> Any:
        """Wait for the end of a search; returns its job."""
        deadline = time.monotonic() + 60
        while (job := self.job(job_id))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        return job

    def search(self, **order: Any) -> Any:
        """Have a search done; returns what is told of it."""
        job = self.done(self.post(**order)["job_id"])
        assert job["state"] == "done", job
        return job["progress"]["search"]


@contextmanager
def directing(root: Path, functions: Functions, former: Path | None = None) -> Iterator[Director]:
    """Run a Director whose files are below `root`, beginning with the records of a former one that still runs."""
    if former:
        root.mkdir()
        source = sqlite3.connect(former / "database.db")
        target = sqlite3.connect(root / "database.db")
        with closing(source), closing(target):
            source.backup(target)
    url = f"sqlite:///{root / 'database.db'}"
    database = Database(url)
    app = create_app(Grids(database, root, functions), database, root / "jobs.lock")
    with listening(app) as address, httpx.Client(base_url=address, timeout=30, trust_env=False) as http:
        yield Director(http, functions, database)
        app.state.jobs.stop()
