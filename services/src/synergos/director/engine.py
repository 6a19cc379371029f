"""Makes messages of what a job asks for, and results of what the grids answer."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from synergos import artefacts, work
from synergos.artefacts import Ids, Keys, Store
from synergos.director.desk import Desk
from synergos.errors import GridFailure, NotFound, SynergosError
from synergos.federation.line import Cancellation
from synergos.jobs import (
    AlignJob,
    Alignment,
    AlignResult,
    InferJob,
    InferResult,
    Party,
    RunJob,
    TrainJob,
    TrainResult,
    Watch,
)
from synergos.logs import get_logger
from synergos.orchestrator import assemble
from synergos.orchestrator.database import Database
from synergos.orchestrator.ledger import Job
from synergos.queue import Completed
from synergos.queue import Job as Message
from synergos.queue.messages import Process

# How often a training is given out, if its model cannot be fetched: seconds to wait for the TTP that has it.
TIMES, FETCH_SECONDS = 3, 60.0
_PAUSE, _LONGEST = 1.0, 30.0

T = TypeVar("T", bound=BaseModel)


class Refused(SynergosError):
    """What a grid says about a part that failed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RemoteEngine:
    """Does one job of the Director at the grids; several of its parts at the same time. See `synergos.jobs.Engine`.

    Args:
        store: gets the files of what was trained.
        keys: tokens for them.
        url: where the grids reach the Director's artefacts.
    """

    def __init__(self, job: Job, desk: Desk, database: Database, store: Store, keys: Keys, url: str) -> None:
        self._job = job
        self._desk = desk
        self._database = database
        self._store = store
        self._keys = keys
        self._url = url
        self._cancellation = Cancellation()
        self._log = get_logger("director")

    def cancel(self, reason: str) -> None:
        """End all that is under way of this job. See `Engine.cancel`."""
        if self._cancellation.reason is None:
            self._cancellation.cancel(reason)
        self._desk.call_off(self._job.job_id, reason)

    def align(self, job: AlignJob) -> AlignResult:
        """See `Engine.align`."""
        asked = work.Align(
            action=job.action, experiments=job.experiments, auto_align=job.auto_align, auto_fix=job.auto_fix
        )
        found = _read(work.Aligned, self._ask(self._align(job, asked)))
        return AlignResult(alignments=found.spacers, experiments=found.experiments)

    def realign(self, job: AlignJob, participant_id: str) -> Alignment:
        """See `Engine.realign`."""
        asked = work.Align(action=job.action, participant_id=participant_id)
        found = _read(work.Aligned, self._ask(self._align(job, asked)))
        return found.spacers[participant_id]

    def train(self, job: TrainJob, watch: Watch | None = None) -> TrainResult:
        """Train at a grid, then fetch the files. See `Engine.train`."""
        ids = _ids(job)
        asked = work.Train(
            action=job.action,
            experiment=job.model,
            run=job.parameters,
            auto_align=job.auto_align,
            artefacts=work.Source(token=self._keys.token(ids, self._job.job_id)),
        )
        message = self._message("train", list(ids), job.parties, asked)
        for left in reversed(range(TIMES)):
            answer = self._ask(message, watch)
            trained = _read(work.Trained, answer)
            try:
                self._fetch(ids, trained.url, answer)
            except GridFailure as error:
                if not left:
                    raise
                self._log.warning("model lost, trained again", code=error.status, ttp=answer.ttp, reason=error.message)
                self._desk.again(message)
                continue
            break
        if watch is not None:
            for progress in trained.rounds:
                watch(progress)
        return TrainResult(paths=_placed(trained.paths, str(self._store.folder(ids))))

    def infer(self, job: InferJob) -> InferResult:
        """See `Engine.infer`."""
        ids = _ids(job)
        asked = work.Infer(
            action=job.action,
            experiment=job.model,
            run=job.parameters,
            auto_align=job.auto_align,
            artefacts=work.Source(url=artefacts.url(self._url, ids), token=self._keys.token(ids)),
            participants=job.participants,
            metas=[job.meta],
        )
        process: Process = "validate" if job.meta == "evaluate" else "predict"
        answer = self._ask(self._message(process, list(ids), job.parties, asked))
        results = _read(work.Inferred, answer).results
        return InferResult(results={name: found[job.meta] for name, found in results.items()})

    def _align(self, job: AlignJob, asked: work.Align) -> Message:
        return self._message("preprocess", [job.collab_id, job.project_id], job.parties, asked)

    def _message(self, process: Process, keys: list[str], parties: list[Party], asked: BaseModel) -> Message:
        with self._database.read() as records:
            grids = assemble.grids(records, {"collab_id": keys[0], "project_id": keys[1]}, parties)
        return Message(
            job_id=self._job.job_id,
            part="/".join(keys[1:]),
            process=process,
            keys=keys,
            grids=grids,
            parameters=asked.model_dump(mode="json"),
            trace_id=self._job.trace_id,
        )

    def _ask(self, message: Message, watch: Watch | None = None) -> Completed:
        left, grids = len(message.grids), set(range(len(message.grids)))
        pause = _PAUSE
        while True:
            left -= 1
            answer = self._desk.do(message, self._cancellation, watch)
            if answer.failure is None:
                return answer
            self._cancellation.check()
            reason, status = answer.failure.reason, answer.failure.status
            if status != work.AWAY:
                raise Refused(reason, status)
            grids.discard(answer.grid % len(message.grids))
            # A grid that is at work comes to it later; the one whose workers are away is free sooner.
            busy = {grid % len(message.grids) for grid in self._desk.at_work()}
            if grids & busy:
                left = len(message.grids)
            if not grids or left <= 0:
                raise Refused(reason, GridFailure.status)
            self._log.warning("grid without its workers", code=status, ttp=answer.ttp, reason=reason)
            self._cancellation.pause(pause)
            pause = min(2 * pause, _LONGEST)
            self._desk.again(message)

    def _fetch(self, ids: Ids, url: str, answer: Completed) -> None:
        token, origin = self._keys.token(ids, self._job.job_id), "/".join(map(str, answer.identity))
        deadline = time.monotonic() + FETCH_SECONDS
        while True:
            try:
                self._store.fetch(ids, url, token, origin=origin)
                break
            except NotFound as error:
                raise GridFailure(error.message) from None
            except GridFailure:
                if time.monotonic() > deadline:
                    raise
                self._cancellation.pause(_PAUSE)
            except OSError as error:
                raise SynergosError(f"The files of {'/'.join(ids)} cannot be stored: {error}.") from None
        self._store.drop(url, token)


def _ids(job: RunJob) -> Ids:
    return job.collab_id, job.project_id, job.expt_id, job.run_id


def _read(kind: type[T], answer: Completed) -> T:
    """Return what an answer holds."""
    try:
        return kind.model_validate(answer.outputs)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise SynergosError(
            f"What {answer.ttp} answered cannot be read ({'.'.join(map(str, fault['loc']))}: {fault['msg']}): "
            "Director and TTPs must be of the same version."
        ) from None


def _placed(paths: dict[str, dict[str, Any]], folder: str) -> dict[str, dict[str, Any]]:
    """Return what is told of files, with paths in `folder`."""
    return {
        name: {key: f"{folder}/{value}" if key in work.FILES and value else value for key, value in told.items()}
        for name, told in paths.items()
    }
