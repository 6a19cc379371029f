"""An engine that needs no workers, and an orchestrator over it that answers on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from synergos.errors import Cancelled, FeatureDrift, SynergosError
from synergos.jobs import (
    AlignJob,
    Alignment,
    AlignResult,
    InferJob,
    InferResult,
    Layout,
    ParticipantRound,
    RoundProgress,
    RunJob,
    Spacers,
    TrainJob,
    TrainResult,
    Watch,
)
from synergos.orchestrator.app import create_app
from synergos.orchestrator.database import Database
from synergos.orchestrator.grids import OneGrid
from synergos.orchestrator.kinds import KINDS
from synergos.orchestrator.ledger import Ledger

LAYOUT = Layout(X=["age", "sex_0", "sex_1"], y=["target"], scaling={"age": (5.0, 2.0)}, counts={"target": 80})


@dataclass
class FakeEngine:
    """Answers as a grid would, remembers the jobs, and fails or waits where a test says so.

    Attributes:
        failing: method → error to raise.
        gate: a job passes only while it is set; one that waits can be cancelled.
        peak: most jobs that were ever inside at the same time.
    """

    jobs: list[tuple[str, Any]] = field(default_factory=list)
    failing: dict[str, SynergosError | Exception] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    inside: int = 0
    peak: int = 0
    reason: str | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    def clear(self) -> None:
        """Forget all jobs and orders."""
        self.jobs.clear()
        self.failing.clear()
        self.gate.set()
        self.peak = 0

    def align(self, job: AlignJob) -> AlignResult:
        """Give the first party a spacer; with auto_fix, three features."""
        self._enter("align", job)
        names = [party.node.participant_id for party in job.parties]
        alignments = {name: Alignment(layout=LAYOUT) for name in names}
        alignments[names[0]].evaluate = Spacers(X=[1])
        models = {expt_id: [dict(layer) for layer in model] for expt_id, model in job.experiments.items()}
        for model in models.values():
            model[0]["structure"] = {**model[0]["structure"], "in_features": 3}
        return AlignResult(alignments=alignments, experiments=models if job.auto_fix else {})

    def realign(self, job: AlignJob, participant_id: str) -> Alignment:
        """Find drift in data of that name, else a spacer."""
        self._enter("realign", job)
        [party] = [party for party in job.parties if party.node.participant_id == participant_id]
        if any("drift" in path for path in party.tags.predict):
            raise FeatureDrift("Feature drift detected! Unknown columns: height.")
        assert party.alignment is not None
        return party.alignment.model_copy(update={"predict": Spacers(X=[2])})

    def train(self, job: TrainJob, watch: Watch | None = None) -> TrainResult:
        """Report two rounds, then name the files of a model."""
        names = [party.node.participant_id for party in job.parties]

        def report() -> None:
            for number in (1, 2):
                if watch is not None:
                    watch(progress(number, names))

        self._enter("train", job, report)
        folder = "/".join(("/orchestrator/outputs", *_ids(job)))
        paths = {
            "global": {
                "origin": "ttp",
                "path": f"{folder}/global_model.pt",
                "loss_history": f"{folder}/global_loss_history.json",
                "rounds": 2,
                "best_round": 1,
                "left_out": [],
                "checkpoints": [f"{folder}/checkpoints/round_2.pt"],
            }
        }
        for number, party in enumerate(job.parties, 1):
            name = party.node.participant_id
            paths[f"local_{number}"] = {
                "origin": name,
                "path": f"{folder}/local_model_{name}.pt",
                "loss_history": f"{folder}/local_loss_history_{name}.json",
            }
        return TrainResult(paths=paths)

    def infer(self, job: InferJob) -> InferResult:
        """Return figures, one of them undefined."""
        self._enter("infer", job)
        path = "/".join(("/worker/outputs", *_ids(job), job.meta, f"inference_statistics_{job.meta}.json"))
        statistics = {"R2": float("nan"), "MSE": 1.5, "MAE": 1.0}
        return InferResult(results={name: {"statistics": statistics, "res_path": path} for name in job.participants})

    def cancel(self, reason: str) -> None:
        """Make the job inside, if there is one, end."""
        if self.inside:
            self.reason = reason

    def _enter(self, name: str, job: Any, report: Callable[[], None] = lambda: None) -> None:
        self.reason = None
        self.inside += 1
        self.peak = max(self.peak, self.inside)
        try:
            self.jobs.append((name, job.model_copy(deep=True)))
            report()
            for _ in range(2000):
                if self.gate.wait(0.01):
                    break
                if self.reason is not None:
                    raise Cancelled(self.reason)
            else:
                raise AssertionError("the gate was not opened")
            if name in self.failing:
                raise self.failing[name]
        finally:
            self.inside -= 1


def progress(number: int, names: Sequence[str], rounds: int = 2) -> RoundProgress:
    """Return what a round brought; the losses of round n are 1 / n."""
    parts = {name: ParticipantRound(loss=1 / number, rows=40, seconds=0.01) for name in names}
    return RoundProgress(round=number, rounds=rounds, seconds=0.02, train_loss=1 / number, participants=parts)


@dataclass
class Grid:
    """A running orchestrator with its engine and a view into its database."""

    url: str
    app: FastAPI
    engine: FakeEngine
    database: Database
    root: Path

    def clear(self) -> None:
        """Start again from nothing."""
        self.engine.clear()
        with self.database.write() as records:
            for kind in KINDS:
                records.clear(kind)
            Ledger(records).clear()

    def snapshot(self) -> dict[str, list[Any]]:
        """Return everything that is stored."""
        with self.database.read() as records:
            return {kind.name: records.select(kind) for kind in KINDS}


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of loopback; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def running(root: Path) -> Iterator[Grid]:
    """Run an orchestrator whose files are below `root`."""
    engine, url = FakeEngine(), f"sqlite:///{root / 'database.db'}"
    app = create_app(OneGrid(engine), Database(url), root / "jobs.lock")
    with listening(app) as address:
        database = Database(url)
        yield Grid(address, app, engine, database, root)
        engine.gate.set()
        database.close()


class PlainClient:
    """A client that knows only the rules of 2021: JSON in, JSON out, no trailing slash, no redirects followed."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=30, trust_env=False)

    def __call__(self, verb: str, path: str, body: Any = None) -> httpx.Response:
        return self._http.request(verb, f"/ttp/{path}", json=body)

    def ok(self, verb: str, path: str, body: Any = None) -> Any:
        """Return `data` of an answer that must be a success in the envelope of the API."""
        response = self(verb, path, body)
        answer = response.json()
        assert response.is_success, response.text
        assert set(answer) == {"apiVersion", "success", "status", "method", "params", "data"}
        assert (answer["apiVersion"], answer["success"], answer["status"]) == ("0.1.0", 1, response.status_code)
        return answer["data"]

    def raw(self, **request: Any) -> httpx.Response:
        """Send a request as it is given."""
        return self._http.request(**request)


MODEL = [
    {"is_input": True, "l_type": "Linear", "structure": {"in_features": 28, "out_features": 1}, "activation": None}
]
COLLAB = "connect/collaborations/c1"
PROJECT = f"{COLLAB}/projects/p1"
EXPERIMENT = f"{PROJECT}/experiments/e1"
RUN = f"{EXPERIMENT}/runs/r1"


def registration(participant: str, collab: str = "c1", project: str = "p1") -> str:
    """Return the path of a registration."""
    return f"connect/collaborations/{collab}/projects/{project}/participants/{participant}/registration"


def register(client: PlainClient, collab: str = "c1", project: str = "p1", workers: int = 2) -> None:
    """Create one of everything up to the tags, named as in the notebooks."""
    client.ok("POST", "connect/collaborations", {"collab_id": collab})
    above = f"connect/collaborations/{collab}/projects"
    client.ok("POST", above, {"project_id": project, "action": "regress", "incentives": {"tier_1": []}})
    client.ok("POST", f"{above}/{project}/experiments", {"expt_id": "e1", "model": MODEL})
    client.ok("POST", f"{above}/{project}/experiments/e1/runs", {"run_id": "r1", "rounds": 2, "criterion": "MSELoss"})
    for number in range(1, workers + 1):
        name = f"worker_{number}"
        client.ok("POST", "connect/participants", {"id": name})
        node = {"host": f"172.18.0.{number + 2}", "port": 8020, "f_port": 5000, "log_msgs": True, "verbose": True}
        path = registration(name, collab, project)
        client.ok("POST", path, {"role": "host", "n_count": 1, "node_0": node})
        data = ["abalone", "dataset", f"data{number}"]
        client.ok("POST", f"{path}/tags", {"train": [[*data, "train"]], "evaluate": [[*data, "evaluate"]]})


def _ids(job: RunJob) -> tuple[str, str, str, str]:
    return job.collab_id, job.project_id, job.expt_id, job.run_id
