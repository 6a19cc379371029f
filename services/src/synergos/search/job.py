"""A search as a job of the Director: it begins trials, follows them, and ends those that are not worth it.

What a trial comes to is stored before anything is made of it, and its jobs are found again by its run. So a Director
that is killed in the middle goes on with what it finds: trials that ended are not repeated, the others go on.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from synergos.errors import GridFailure, Invalid, NotFound, SynergosError
from synergos.logs import get_logger
from synergos.orchestrator.database import Body
from synergos.orchestrator.kinds import EXPERIMENT, RUN, TRIAL, VALIDATION, Key
from synergos.orchestrator.ledger import Job, Process, now
from synergos.orchestrator.queue import Ended, JobQueue, Stopped, Task
from synergos.orchestrator.schemas import Order
from synergos.search.order import SearchOrder
from synergos.search.study import Study
from synergos.search.trials import State, Trial, Trials, best_of, grids_of

# Seconds between two looks at the rounds of the trials.
_TICK = 0.1
# Seconds that the jobs of trials are waited for that are to end.
_ENDING = 60.0
# Reasons of failed trials that are quoted.
_QUOTED = 3


@dataclass
class _Live:
    """A trial that is under way.

    Attributes:
        job_id: of the job that trains or validates it now.
        process: which of both.
        ending: why it is to end, if it is.
    """

    trial: Trial
    key: Key
    job_id: str = ""
    process: Process = "train"
    ending: str | None = None


class Search:
    """One search.

    Args:
        queue: does the jobs of the trials.
        task: the job of the search.
    """

    def __init__(self, queue: JobQueue, task: Task) -> None:
        self._queue, self._task, self._database = queue, task, task.database
        self._order = SearchOrder.model_validate(task.job.order)
        self._study = Study(self._order, task.job.job_id)
        self._experiment = {name: task.job.ids[name] for name in EXPERIMENT.key}
        self._live: list[_Live] = []
        self._ended: list[Trial] = []
        self._heard = threading.Event()
        self._log = get_logger("search")

    def run(self) -> list[Body]:
        """Search until a budget is used up; returns nothing, since nobody waits.

        Raises:
            GridFailure: no trial was completed; the message says why.
        """
        try:
            self._take_up()
            while True:
                self._heard.clear()
                self._task.check()
                left = self._left()
                if left <= 0:
                    self._end("max_exec_duration is over.")
                for live in list(self._live):
                    self._follow(live)
                while left > 0 and len(self._live) < self._order.concurrency and self._begun < self._study.size:
                    self._begin()
                if not self._live:
                    break
                self._heard.wait(_TICK)
        except Stopped:
            raise
        except BaseException as error:
            self._abandon(error.message if isinstance(error, SynergosError) else "The search failed.")
            raise
        self._finish()
        return []

    @property
    def _begun(self) -> int:
        return len(self._live) + len(self._ended)

    def _left(self) -> float:
        """Return the seconds that are left."""
        begun = self._task.job.started_at or now()
        return (begun + timedelta(seconds=self._order.max_exec_duration) - now()).total_seconds()

    def _take_up(self) -> None:
        with self._database.read() as records:
            found = Trials(records).of(self._task.job.job_id)
        for trial in found:
            self._study.restore(trial)
            if trial.state != "running":
                self._ended.append(trial)
                continue
            live = _Live(trial, {**self._experiment, "run_id": trial.run_id})
            self._live.append(live)
            jobs = [job for job, _ in self._queue.read_all(live.key) if job.ids.keys() == live.key.keys()]
            for process in ("validate", "train"):
                if job := next((job for job in jobs if job.process == process), None):
                    self._set(live, job)
                    break
            else:
                self._submit(live, "train")

    def _begin(self) -> None:
        number = self._begun
        point = self._study.ask(number)
        found = self._order.search_space
        trial = Trial(
            job_id=self._task.job.job_id,
            number=number,
            run_id=f"{TRIAL}{uuid.uuid4()}",
            point=point,
            parameters={name: found[name].at(each) for name, each in point.items()},
        )
        live = _Live(trial, {**self._experiment, "run_id": trial.run_id})
        unusable = None
        try:
            trial.parameters = self._order.values(point)
        except Invalid as error:
            unusable = error.message
        with self._task.writing() as records:
            records.put(RUN, live.key, {**self._order.parameters, **trial.parameters})
            Trials(records).add(trial)
        self._live.append(live)
        if unusable is None:
            self._submit(live, "train")
        else:
            self._close(live, "failed", reason=unusable)

    def _submit(self, live: _Live, process: Process) -> None:
        order = self._order.model_dump(include=set(Order.model_fields))
        try:
            job = self._queue.submit(process, live.key, order).job
        except Stopped:
            raise
        except SynergosError as error:
            self._close(live, "failed", reason=error.message)
        else:
            self._set(live, job)

    def _set(self, live: _Live, job: Job) -> None:
        live.job_id, live.process = job.job_id, job.process
        self._queue.follow(job.job_id, self._heard.set)

    def _follow(self, live: _Live) -> None:
        """Do what is to be done about a trial by what its job has come to."""
        try:
            job, rounds, _ = self._queue.read(live.job_id)
        except NotFound as error:
            self._close(live, "failed", reason=error.message)
            return
        training = job.process == "train" and live.ending is None
        worse = training and self._study.report(live.trial.number, _losses(rounds))
        if job.pending:
            if worse:
                self._call_off(live, "It did worse than others at this point.")
            return
        if job.state != "done":
            self._close(live, "pruned" if live.ending else "failed", reason=live.ending or job.reason)
        elif job.process == "train":
            self._submit(live, "validate")
        else:
            self._value(live)

    def _value(self, live: _Live) -> None:
        with self._database.read() as records:
            found = [record.body["evaluate"]["statistics"] for record in records.select(VALIDATION, **live.key)]
        try:
            value = self._order.value(found)
        except Invalid as error:
            self._close(live, "failed", reason=error.message)
        else:
            self._close(live, "complete", value=value)

    def _close(self, live: _Live, state: State, value: float | None = None, reason: str | None = None) -> None:
        trial = live.trial
        trial.state, trial.value, trial.reason = state, value, reason
        trial.grids = grids_of(self._queue, live.key)
        self._study.note(trial)
        with self._database.write() as records:
            Trials(records).save(trial)
            if self._task.tracker is not None and state == "complete":
                tags = {"search": trial.job_id, "trial": str(trial.number)}
                self._task.tracker.tag(live.key, tags, records)
        self._study.tell(trial)
        self._live.remove(live)
        self._ended.append(trial)
        self._log.info(
            "trial ended",
            code=200,
            run_id=trial.run_id,
            trial=trial.number,
            state=state,
            value=value,
            reason=reason,
            description=reason or f"Trial {trial.number}: {self._order.metric} {value}.",
        )

    def _call_off(self, live: _Live, reason: str) -> None:
        with suppress(Ended, NotFound):
            self._queue.cancel(live.job_id, reason, 0)
            live.ending = reason

    def _end(self, reason: str, validations: bool = False) -> None:
        """Call off the trials that are under way; those that have been trained only with `validations`."""
        for live in self._live:
            if live.ending is None and (validations or live.process == "train"):
                self._call_off(live, reason)

    def _abandon(self, reason: str) -> None:
        """End all trials before the search itself ends so."""
        with suppress(SynergosError):
            self._end(reason, validations=True)
            deadline = time.monotonic() + _ENDING
            for live in list(self._live):
                while self._queue.read(live.job_id)[0].pending and time.monotonic() < deadline:
                    self._heard.wait(_TICK)
                    self._heard.clear()
                self._close(live, "failed", reason=reason)

    def _finish(self) -> None:
        best = best_of(self._ended, self._order.optimize_mode)
        if best is None:
            reasons = list(dict.fromkeys(trial.reason for trial in self._ended if trial.reason))
            more = f" (and {len(reasons) - _QUOTED} other reasons)" if len(reasons) > _QUOTED else ""
            raise GridFailure(f"No trial was completed: {' '.join(reasons[:_QUOTED])}{more}")
        if self._task.tracker is not None:
            with self._task.writing() as records:
                self._task.tracker.tag({**self._experiment, "run_id": best.run_id}, {"best": "true"}, records)


def _losses(rounds: Sequence[Body]) -> dict[int, float]:
    """Return losses by the round whose weights have them: of the data to evaluate, if there is any."""
    found = {
        item["round"] - 1: item["previous_evaluate_loss"]
        for item in rounds
        if item.get("previous_evaluate_loss") is not None
    }
    return found or {item["round"]: item["train_loss"] for item in rounds[1:]}
