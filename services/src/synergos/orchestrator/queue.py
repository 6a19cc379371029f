"""One job at a time on a grid, and none of them lost.

A job is stored before it waits, and its end is stored before anybody is told. Whatever ends the process in between
(a kill, a power cut, but also a stop by SIGTERM, so that `docker restart` costs no training) leaves it stored as
queued or running: the next start takes it up again, oldest first and before new ones. Combinations that it had
finished are not repeated, and the engine continues the one that was under way. Only jobs that were cancelled, failed
or done stay as they are.
"""

from __future__ import annotations

import asyncio
import fcntl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from synergos import trace
from synergos.errors import Busy, Cancelled, SynergosError
from synergos.jobs import Engine, RoundProgress
from synergos.logs import bound, carry, get_logger, trace_id
from synergos.orchestrator.assemble import Combination
from synergos.orchestrator.database import Body, Database, Records, StorageFailure
from synergos.orchestrator.kinds import COLLABORATION, EXPERIMENT, PARTICIPANT, PROJECT, REGISTRATION, RUN, Key
from synergos.orchestrator.ledger import KEPT_ROUNDS, Job, Ledger, Process, now
from synergos.tracking.tracker import Status, Tracker

INTERNAL_ERROR = "Internal error, see the TTP's log."
# A job that brings the process down must not do so at every start.
ATTEMPTS = 3
FLUSH_SECONDS = 1.0
_PRESS_SECONDS = 0.5
# What a job may name: it must exist when the job is ordered.
_NAMED = (COLLABORATION, PROJECT, EXPERIMENT, RUN, PARTICIPANT, REGISTRATION)


class Stopped(SynergosError):
    """The process ends while a request waits for its job."""

    status = 503


class Ended(SynergosError):
    """A job that cannot be cancelled any more."""

    status = 409


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold the grid against every other process; raises `Busy` if one holds it."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise StorageFailure(f"The grid's lock file cannot be written: {error}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("The grid is at work on a job or being reset: try again when that has ended.") from None
        yield


class Task:
    """A job that waits or runs, with what its process needs.

    Attributes:
        future: what the job returns or raises.
        ended: set when everything about its end is stored.
        cancelled: why it is to end early.
        tracker: is told of trainings, if anything is.
    """

    def __init__(
        self,
        job: Job,
        database: Database,
        engine: Engine,
        rounds: Iterable[Body] = (),
        tracker: Tracker | None = None,
    ) -> None:
        self.job = job
        self.database = database
        self.engine = engine
        self.tracker = tracker
        self.future: Future[list[Body]] = Future()
        self.ended = threading.Event()
        self.cancelled: str | None = None
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._rounds: deque[Body] = deque(rounds, KEPT_ROUNDS)
        self._fresh: deque[Body] = deque(maxlen=KEPT_ROUNDS)

    def ids(self, *names: str) -> tuple[str | None, ...]:
        """Return the named ids of the scope, None for those that the request left open."""
        return tuple(self.job.ids.get(name) for name in names)

    @property
    def project(self) -> Key:
        """Ids of the project."""
        return {name: self.job.ids[name] for name in PROJECT.key}

    def check(self) -> None:
        """Raise `Cancelled` if the job is to end."""
        if self.cancelled is not None:
            raise Cancelled(self.cancelled)

    def each(self, combinations: Iterable[Combination]) -> Iterator[Combination]:
        """Go through the combinations that the job has not finished, and note which one is under way."""
        for combination in combinations:
            key = {name: combination.key[name] for name in ("project_id", "expt_id", "run_id")}
            if key not in self.job.finished:
                self.check()
                self.job.current = key
                yield combination

    def watch(self, progress: RoundProgress) -> None:
        """Take in a round of the combination under way. Only memory is touched: a round may take 4 ms."""
        current = self.job.current or {}
        item = {"expt_id": current["expt_id"], "run_id": current["run_id"], **progress.model_dump()}
        with self._lock:
            # A training that was taken up again tells its earlier rounds, and may repeat the last ones.
            if self._known(item):
                return
            while self._rounds and _repeated(self._rounds[-1], item):
                self._rounds.pop()
            self._rounds.append(item)
            self._fresh.append(item)

    def _known(self, item: Body) -> bool:
        if not self._rounds or not _repeated(self._rounds[-1], item):
            return False
        forgotten = len(self._rounds) == self._rounds.maxlen and not any(_repeated(item, old) for old in self._rounds)
        return forgotten or item in self._rounds

    @contextmanager
    def writing(self) -> Iterator[Records]:
        """Open the transaction that stores results, unless the job is to end."""
        self.check()
        with self.database.write() as records:
            yield records

    @contextmanager
    def finishing(self) -> Iterator[Records]:
        """Open the transaction that stores the results of the combination under way and notes it as finished."""
        self.flush()
        if self.tracker is not None:
            self.tracker.flush()
        finished = [*self.job.finished, *([self.job.current] if self.job.current else [])]
        with self.writing() as records:
            yield records
            Ledger(records).save(replace(self.job, finished=finished, current=None, attempts=0))
        self.job.finished, self.job.current, self.job.attempts = finished, None, 0

    def flush(self) -> None:
        """Store the rounds that are not stored yet; what cannot be stored is kept for the next time."""
        with self._flush_lock:
            with self._lock:
                fresh = list(self._fresh)
            if not fresh:
                return
            with self.database.write() as records:
                Ledger(records).add_rounds(self.job.job_id, fresh)
                Ledger(records).got_on(self.job.job_id)
            self.job.attempts = 0
            with self._lock:
                for item in fresh:
                    if self._fresh and self._fresh[0] is item:
                        self._fresh.popleft()

    def rounds(self) -> list[Body]:
        """Return the newest rounds, in order."""
        with self._lock:
            return list(self._rounds)


def _repeated(old: Body, new: Body) -> bool:
    same = (old["expt_id"], old["run_id"]) == (new["expt_id"], new["run_id"])
    return same and bool(old["round"] >= new["round"])


class JobQueue:
    """Runs jobs in the order of their arrival, outside the event loop, one at a time.

    Args:
        lock: file that is locked while a job runs.
        processes: what does each kind of job; returns what the request is answered with.
        tracker: is told of trainings.
    """

    def __init__(
        self,
        database: Database,
        engine: Engine,
        lock: Path,
        processes: Mapping[Process, Callable[[Task], list[Body]]],
        tracker: Tracker | None = None,
    ) -> None:
        self._database = database
        self._tracker = tracker
        self._engine = engine
        self._lock_file = lock
        self._processes = processes
        self._log = get_logger("jobs")
        # Guards everything below; held for moments only, so that no request waits for a job.
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._running: Task | None = None
        # Those that ended stay until their end is stored.
        self._live: dict[str, Task] = {}
        self._stopping = False

    def start(self) -> None:
        """Take up the jobs of an earlier process, then work."""
        with self._database.read() as records:
            ledger = Ledger(records)
            found = [(job, ledger.rounds(job.job_id)) for job in ledger.pending()]
        for job, rounds in found:
            self._log.info("job taken up again", **facts(job), code=202, attempts=job.attempts)
            job = replace(job, state="queued", trace_id=job.trace_id or trace.new())
            self._queue(Task(job, self._database, self._engine, rounds, self._tracker))
        threading.Thread(target=self._work, daemon=True, name="jobs").start()

    def stop(self) -> None:
        """Answer the requests that wait; their jobs are left to the next start."""
        with self._changed:
            self._stopping = True
            running = self._running
            for task in self._live.values():
                _settle(task, error=Stopped(f"The TTP is being stopped: job {task.job.job_id} goes on at its start."))
        if running is not None:
            # A stop is no fault of the job.
            with suppress(StorageFailure), self._database.write() as records:
                Ledger(records).got_on(running.job.job_id)

    async def run(self, process: Process, ids: Mapping[str, str | None], order: Body) -> list[Body]:
        """Queue a job, wait for its end, and return what it returns or raise what it raises.

        The job goes on if nobody waits any more. Waiting takes no thread, so other requests are answered however
        many jobs wait.

        Raises:
            NotFound: a record that `ids` name does not exist; there is no job then.
        """
        task = await anyio.to_thread.run_sync(self.submit, process, ids, order)
        return await asyncio.shield(asyncio.wrap_future(task.future))

    def submit(self, process: Process, ids: Mapping[str, str | None], order: Body) -> Task:
        """Store a job and put it at the end of the queue."""
        given = {name: value for name, value in ids.items() if value is not None}
        with self._changed:
            if self._stopping:
                raise Stopped("The TTP is being stopped: send the request again when it is back.")
            with self._database.write() as records:
                for kind in _NAMED:
                    if given.keys() >= set(kind.key):
                        records.get(kind, given)
                job = Ledger(records).add(process, given, order, trace_id())
            task = Task(job, self._database, self._engine, tracker=self._tracker)
            self._queue(task)
            place = self._places()[job.job_id]
        self._log.info("job queued", **facts(job), code=202, place=place)
        return task

    def cancel(self, job_id: str, reason: str, seconds: float) -> Job:
        """Make a job end and wait for that for so many seconds; returns it as it is then.

        Raises:
            NotFound: there is no such job.
            Ended: it has ended by itself.
        """
        with self._changed:
            task = self._live.get(job_id)
            if task is not None and task.job.pending:
                self._cancel(task, reason)
        if task is None or not (task.job.pending or task.cancelled):
            job = self.read(job_id)[0]
            raise Ended(f"Job {job_id} has ended already ({job.state}): there is nothing to cancel.")
        task.ended.wait(seconds)
        return replace(task.job)

    def cancel_within(self, key: Mapping[str, str], reason: str) -> None:
        """Make the jobs end that work on nothing but what belongs to the record of `key`."""
        with self._changed:
            for task in [task for task in self._live.values() if task.job.pending and task.job.within(key)]:
                self._cancel(task, reason)

    def read(self, job_id: str) -> tuple[Job, list[Body], int | None]:
        """Return a job, its rounds, and its place in the queue (from 1) if it waits; raises `NotFound`."""
        with self._changed:
            task = self._live.get(job_id)
            if task is not None:
                return replace(task.job), task.rounds(), self._places().get(job_id)
        with self._database.read() as records:
            ledger = Ledger(records)
            return ledger.get(job_id), ledger.rounds(job_id), None

    def read_all(self, ids: Mapping[str, str | None]) -> list[tuple[Job, int | None]]:
        """Return the jobs that name all `ids` that are not None, oldest first, with their places in the queue."""
        with self._changed:
            live = {job_id: replace(task.job) for job_id, task in self._live.items()}
            places = self._places()
        with self._database.read() as records:
            stored = Ledger(records).select(ids)
        return [(live.get(job.job_id, job), places.get(job.job_id)) for job in stored]

    def _places(self) -> dict[str, int]:
        return {task.job.job_id: place for place, task in enumerate(self._waiting, 1)}

    def _queue(self, task: Task) -> None:
        with self._changed:
            self._live[task.job.job_id] = task
            self._waiting.append(task)
            self._changed.notify_all()

    def _cancel(self, task: Task, reason: str) -> None:
        if task is not self._running:
            # Stored first: a job that cannot be stored as cancelled would come back at the next start.
            ended = replace(task.job, state="cancelled", reason=reason, ended_at=now())
            self._store_end(ended)
            self._waiting.remove(task)
            task.job, task.cancelled = ended, reason
            self._live.pop(ended.job_id)
            _settle(task, error=Cancelled(reason))
            task.ended.set()
        elif task.cancelled is None:
            task.cancelled = reason
            threading.Thread(target=self._press, args=(task, reason), daemon=True, name="cancel").start()

    def _press(self, task: Task, reason: str) -> None:
        # Again and again: the engine hears it only while it is at work, which a job is not all the time.
        while True:
            with self._changed:
                if self._running is not task:
                    return
                self._engine.cancel(reason)
            if task.ended.wait(_PRESS_SECONDS):
                return

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting or self._stopping:
                    self._changed.wait()
                task = self._running = self._waiting.popleft()
            with bound(**facts(task.job)):
                self._execute(task)

    def _execute(self, task: Task) -> None:
        job = task.job
        data: list[Body] = []
        error: SynergosError | None = None
        log = self._log
        begin = time.perf_counter()
        try:
            with exclusive(self._lock_file), self._flushing(task):
                self._begin(task)
                data = self._processes[job.process](task)
        except SynergosError as expected:
            error = Cancelled(task.cancelled) if task.cancelled is not None else expected
        except Exception:
            log.exception("job failed", code=500)
            error = SynergosError(INTERNAL_ERROR)
        with self._changed:
            self._running = None
            if error is not None and self._stopping:
                # Perhaps only because workers are being stopped too: the next start tries again.
                return
            job.state = "done" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
            job.reason, job.ended_at = error.message if error else None, now()
            if error is None:
                job.current = None
        note = log.info if error is None or job.state == "cancelled" else log.error
        note(
            "job ended",
            code=error.status if error else 200,
            state=job.state,
            reason=job.reason,
            description=job.reason or f"The job is done: {job.process} of {'/'.join(job.ids.values())}.",
            seconds=round(time.perf_counter() - begin, 3),
        )
        stored = False
        try:
            task.flush()
            self._store_end(job)
            stored = True
        except StorageFailure as failure:
            log.error("the end of the job cannot be stored", code=failure.status, reason=failure.message)
        with self._changed:
            if stored:
                self._live.pop(job.job_id)
            _settle(task, data, error)
        task.ended.set()

    def _begin(self, task: Task) -> None:
        job = task.job
        if job.attempts >= ATTEMPTS:
            raise SynergosError(
                f"The TTP ended {job.attempts} times while it did this job and before it got on, perhaps because of "
                "it (too little memory?): see the log, then send the request again."
            )
        job.state, job.started_at, job.attempts = "running", job.started_at or now(), job.attempts + 1
        with task.writing() as records:
            Ledger(records).save(job)
        waited = (job.started_at - job.created_at).total_seconds()
        self._log.info("job taken", code=200, attempts=job.attempts, waited=waited)

    @contextmanager
    def _flushing(self, task: Task) -> Iterator[None]:
        over = threading.Event()

        def flush() -> None:
            while not over.wait(FLUSH_SECONDS):
                try:
                    task.flush()
                except StorageFailure as failure:
                    self._log.warning("progress cannot be stored", code=failure.status, reason=failure.message)

        thread = threading.Thread(target=carry(flush), daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _store_end(self, job: Job) -> None:
        """Store how a job ended, along with those for which that was not possible before."""
        with self._changed:
            late = [task.job for task in self._live.values() if task.ended.is_set()]
        with self._database.write() as records:
            ledger = Ledger(records)
            for ended in (*late, job):
                ledger.save(ended)
                if self._tracker is not None and ended.state in ("failed", "cancelled"):
                    status: Status = "FAILED" if ended.state == "failed" else "KILLED"
                    self._tracker.ended(ended.job_id, status, ended.reason or "", records)
            ledger.forget_old()
        with self._changed:
            for ended in late:
                self._live.pop(ended.job_id, None)


def facts(job: Job) -> dict[str, str | None]:
    """Return what every line about a job carries."""
    return {"trace_id": job.trace_id, "job_id": job.job_id, "process": job.process, **job.ids}


def _settle(task: Task, data: list[Body] | None = None, error: SynergosError | None = None) -> None:
    if task.future.done():
        return
    if error is not None:
        task.future.set_exception(error)
    else:
        task.future.set_result(data or [])
