"""The TTP of a cluster: does jobs that come from the broker, and has no records."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from synergos import __version__, artefacts, work
from synergos.artefacts import Ids, Store
from synergos.cli import Options
from synergos.errors import Busy, Cancelled, GridFailure, Invalid, NotFound, SynergosError, Unreachable
from synergos.jobs import AlignJob, InferJob, Party, RoundProgress, RunJob, TrainJob
from synergos.logs import get_logger
from synergos.orchestrator.ledger import KEPT_ROUNDS
from synergos.orchestrator.queue import exclusive
from synergos.queue import (
    Address,
    BrokerAway,
    Cancel,
    Controls,
    GiveBack,
    Job,
    JobConsumer,
    Progress,
    Publisher,
)
from synergos.rest import create_api
from synergos.ttp.engine import GridEngine

# What is remembered of jobs that were called off: their messages may still come.
_REMEMBERED = 1000
_MODEL = "global_model.pt"
# Runs whose files are kept. The Director takes those of each training soon, and has them removed; what it never comes
# for, and what was begun and went on elsewhere, is in the way some time.
_KEPT_RUNS = 50
# Seconds for which a model cannot be fetched though the Director is at work.
_PATIENCE = 60
_PAUSE = 1.0


class _Away(SynergosError):
    status = work.AWAY


class QueuedGrid:
    """One grid of a cluster.

    Args:
        engine: does the work.
        options: with the broker, the index of the grid and the TTP's name.
        address: the broker.
        outputs: root of the output tree.
        lock: file that is locked while a job runs.
        port: where artefacts are to be fetched.
    """

    def __init__(
        self, engine: GridEngine, options: Options, address: Address, outputs: Path, lock: Path, port: int
    ) -> None:
        self.store = Store(outputs)
        self._engine = engine
        self._options = options
        self._address = address
        self._outputs, self._lock, self._port = outputs, lock, port
        self._under_way = lock.with_name("under_way.json")
        self._publisher = Publisher(address, options.id)
        self._consumer = JobConsumer(address, options.id, options.grid, self._publisher, self.do)
        self._controls = Controls(address, options.id, self._call_off)
        self._log = get_logger("grid")
        self._guard = threading.Lock()
        self._called_off: OrderedDict[str, str] = OrderedDict()

    def start(self) -> None:
        """Begin to take jobs."""
        self._free_workers()
        for line in (self._publisher, self._controls, self._consumer):
            line.start()

    def stop(self) -> None:
        """Take no jobs any more; the one under way goes to another grid, or comes back."""
        self._consumer.close()

    def do(self, job: Job) -> dict[str, Any]:
        """Do a job and return its outputs."""
        self._check(job)
        try:
            # A project whose participants have fewer workers is shared by the grids: every grid serves every project.
            parties = job.grids[self._options.grid % len(job.grids)]
            with exclusive(self._lock):
                self.store.prune(_KEPT_RUNS)
                return _PROCESSES[job.process](self, job, parties)
        except Busy as error:
            raise GiveBack(error.message) from None
        except Unreachable as error:
            raise _Away(error.message) from None

    @contextmanager
    def _noted(self, order: RunJob) -> Iterator[None]:
        """Note whose workers the next process has to free if this one ends in the middle."""
        self._under_way.write_text(order.model_dump_json())
        try:
            yield
        finally:
            self._under_way.unlink()

    def _free_workers(self) -> None:
        """Close sessions that an earlier process left open: its job may be at another grid now."""
        try:
            left = RunJob.model_validate_json(self._under_way.read_text())
        except (OSError, ValueError):
            return
        self._engine.free(left)
        self._under_way.unlink()

    def _check(self, job: Job) -> None:
        with self._guard:
            reason = self._called_off.get(job.job_id)
        if reason is not None:
            raise Cancelled(reason)
        if not job.grids or not job.grids[0]:
            raise Invalid("The job names no participants.")

    def _preprocess(self, job: Job, parties: list[Party]) -> dict[str, Any]:
        asked = work.Align.model_validate(job.parameters)
        collab_id, project_id = job.keys
        order = AlignJob(
            collab_id=collab_id,
            project_id=project_id,
            action=asked.action,
            parties=parties,
            experiments=asked.experiments,
            auto_align=asked.auto_align,
            auto_fix=asked.auto_fix,
        )
        if asked.participant_id is None:
            found = self._engine.align(order)
            result = work.Aligned(spacers=found.alignments, experiments=found.experiments)
        else:
            placed = self._engine.realign(order, asked.participant_id)
            result = work.Aligned(spacers={asked.participant_id: placed})
        return result.model_dump(mode="json")

    def _train(self, job: Job, parties: list[Party]) -> dict[str, Any]:
        asked = work.Train.model_validate(job.parameters)
        ids = _ids(job)
        url = artefacts.url(artefacts.base(self._address.host, self._port), ids)
        if (known := self._known(ids, job)) is not None:
            return known.model_copy(update={"url": url}).model_dump(mode="json")
        order = TrainJob(
            **_named(ids),
            action=asked.action,
            parties=parties,
            model=asked.experiment,
            parameters=asked.run,
            auto_align=asked.auto_align,
        )

        rounds: deque[RoundProgress] = deque(maxlen=KEPT_ROUNDS)

        def watch(progress: RoundProgress) -> None:
            rounds.append(progress)
            told = Progress(
                job_id=job.job_id,
                part=job.part,
                attempt=job.attempt,
                grid=self._options.grid,
                ttp=self._options.id,
                trace_id=job.trace_id,
                state="round",
                round=progress,
            )
            self._publisher.tell(told)

        try:
            with self._noted(order):
                result = self._engine.train(order, watch)
        except SynergosError:
            self.store.remove(ids)
            raise
        self.store.allow(ids, asked.artefacts.token)
        paths = _below(result.paths, self.store.folder(ids))
        trained = work.Trained(paths=paths, url=url, rounds=list(rounds))
        self.store.note(ids, json.dumps([job.identity, trained.model_dump(mode="json")]))
        return trained.model_dump(mode="json")

    def _known(self, ids: Ids, job: Job) -> work.Trained | None:
        """Return the result of a training that an earlier process finished and could not tell any more."""
        try:
            identity, trained = json.loads(self.store.noted(ids))
            return work.Trained.model_validate(trained) if tuple(identity) == job.identity else None
        except ValueError:
            return None

    def _infer(self, job: Job, parties: list[Party]) -> dict[str, Any]:
        asked = work.Infer.model_validate(job.parameters)
        ids = _ids(job)
        self._fetch(job, ids, asked.artefacts)
        results: dict[str, dict[str, dict[str, Any]]] = {}
        try:
            for meta in asked.metas:
                order = InferJob(
                    **_named(ids),
                    action=asked.action,
                    parties=parties,
                    model=asked.experiment,
                    parameters=asked.run,
                    auto_align=asked.auto_align,
                    meta=meta,
                    participants=asked.participants,
                )
                with self._noted(order):
                    found = self._engine.infer(order).results
                for name, result in found.items():
                    results.setdefault(name, {})[meta] = result
        finally:
            self.store.remove(ids)
        return work.Inferred(results=results).model_dump(mode="json")

    def _fetch(self, job: Job, ids: Ids, source: work.Source) -> None:
        """Get a model from the Director, when it is back if it is away."""
        left = _PATIENCE
        while True:
            try:
                return self.store.fetch(ids, source.url, source.token, [_MODEL])
            except NotFound:
                raise NotFound(f"No model of {'/'.join(ids)} is kept by the Director: train it again.") from None
            except GridFailure as error:
                if left == _PATIENCE:
                    self._log.warning("model not fetched yet", code=503, reason=error.message)
                left -= self._director_listens()
                if left <= 0:
                    raise
            time.sleep(_PAUSE)
            self._check(job)

    def _director_listens(self) -> bool:
        with suppress(BrokerAway):
            results = self._publisher.depths(timeout=2.0).get("completed")
            return results is not None and results.consumers > 0
        return False

    def _call_off(self, message: Cancel) -> None:
        with self._guard:
            self._called_off[message.job_id] = message.reason
            if len(self._called_off) > _REMEMBERED:
                self._called_off.popitem(last=False)
        job = self._consumer.job
        if job is not None and job.job_id == message.job_id:
            self._engine.cancel(message.reason)

    def state_app(self) -> FastAPI:
        """Return what answers on the REST port."""
        app = create_api("Synergos TTP in a cluster")

        @app.get("/health")
        def health() -> dict[str, str]:
            return {
                "status": "ok",
                "version": __version__,
                "broker": "connected" if self._consumer.connected else "away",
            }

        @app.get("/state")
        def state() -> dict[str, Any]:
            job = self._consumer.job
            try:
                depths = self._publisher.depths(timeout=2.0)
            except BrokerAway:
                depths = {}
            return {
                "id": self._options.id,
                "grid": self._options.grid,
                "broker": "connected" if self._consumer.connected else "away",
                "job": job.model_dump(include={"job_id", "part", "attempt", "process", "keys"}) if job else None,
                "queues": {name: {"messages": each.messages} for name, each in depths.items()},
            }

        return app


def _ids(job: Job) -> Ids:
    collab_id, project_id, expt_id, run_id = job.keys
    return collab_id, project_id, expt_id, run_id


def _named(ids: Ids) -> dict[str, Any]:
    return dict(zip(("collab_id", "project_id", "expt_id", "run_id"), ids, strict=True))


def _below(paths: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    return {
        name: {key: str(Path(value).relative_to(folder)) if key in work.FILES else value for key, value in told.items()}
        for name, told in paths.items()
    }


_PROCESSES: dict[str, Callable[[QueuedGrid, Job, list[Party]], dict[str, Any]]] = {
    "preprocess": QueuedGrid._preprocess,
    "train": QueuedGrid._train,
    "validate": QueuedGrid._infer,
    "predict": QueuedGrid._infer,
}
