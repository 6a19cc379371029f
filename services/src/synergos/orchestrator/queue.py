"""Jobs in line for a grid, or for the grids of a cluster, and none of them lost.

A job is stored before it waits, and its end is stored before anybody is told. Whatever ends the process in between
(a kill, a power cut, but also a stop by SIGTERM, so that `docker restart` costs no training) leaves it stored as
queued or running: the next start takes it up again, oldest first and before new ones. Combinations that it had
finished are not repeated, and the engine continues those that were under way. Only jobs that were cancelled, failed
or done stay as they are.
"""

from __future__ import annotations

import asyncio
import fcntl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from synergos import trace
from synergos.errors import Busy, Cancelled, SynergosError
from synergos.jobs import Engine, RoundProgress
from synergos.logs import bound, carry, get_logger, trace_id
from synergos.orchestrator.assemble import Combination
from synergos.orchestrator.database import Body, Database, Records, StorageFailure
from synergos.orchestrator.grids import Grids
from synergos.orchestrator.kinds import COLLABORATION, EXPERIMENT, PARTICIPANT, PROJECT, REGISTRATION, RUN, Key
from synergos.orchestrator.ledger import KEPT_ROUNDS, Job, Ledger, Process, now
from synergos.tracking.tracker import Status, Tracker

T = TypeVar("T")

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
def exclusive(lock: Path, shared: bool = False) -> Iterator[None]:
    """Hold the grid against every other process; raises `Busy` if one holds it.

    Args:
        shared: only against those that want it for themselves.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise StorageFailure(f"The grid's lock file cannot be written: {error}.") from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
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
        parallel: int = 1,
        tracker: Tracker | None = None,
    ) -> None:
        self.job = job
        self.database = database
        self.engine = engine
        self.tracker = tracker
        self.future: Future[list[Body]] = Future()
        self.ended = threading.Event()
        self.cancelled: str | None = None
        self._parallel = parallel
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._finish_lock = threading.Lock()
        self._under_way: list[Key] = []
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

    def every(self, combinations: Iterable[Combination], work: Callable[[Step], T]) -> list[T]:
        """Have the combinations worked on that the job has not finished; returns what that brings, in order.

        One after another, the first failure ends all. At the same time, all are tried before failures are told.
        """
        steps = [Step(self, combination) for combination in combinations]
        left = [step for step in steps if step.key not in self.job.finished]
        if self._parallel == 1 or len(left) < 2:
            return [self._take(step, work) for step in left]
        with ThreadPoolExecutor(min(self._parallel, len(left))) as pool:
            futures = [pool.submit(carry(self._take), step, work) for step in left]
        failures = {
            step.title: error for step, future in zip(left, futures, strict=True) if (error := future.exception())
        }
        self.check()
        if len(failures) > 1 and all(isinstance(error, SynergosError) for error in failures.values()):
            raise _Failures(failures)
        return [future.result() for future in futures]

    def _take(self, step: Step, work: Callable[[Step], T]) -> T:
        self.check()
        with self._lock:
            self._under_way.append(step.key)
            self.job.current = step.key
        with bound(**step.key):
            result = work(step)
        with self._lock:
            self._under_way.remove(step.key)
        return result

    def take_in(self, key: Key, progress: RoundProgress) -> None:
        """Take in a round of a combination. Only memory is touched: a round may take 4 ms."""
        item = {"expt_id": key["expt_id"], "run_id": key["run_id"], **progress.model_dump()}
        with self._lock:
            # A training that was taken up again tells its earlier rounds, and may repeat the last ones.
            last = next((old for old in reversed(self._rounds) if _same(old, item)), None)
            if last is not None and last["round"] >= item["round"]:
                if self._known(item):
                    return
                # Another grid begins from the first one.
                self._rounds, self._fresh = (
                    deque((old for old in each if not _same(old, item) or old["round"] < item["round"]), KEPT_ROUNDS)
                    for each in (self._rounds, self._fresh)
                )
            self._rounds.append(item)
            self._fresh.append(item)

    def _known(self, item: Body) -> bool:
        older = any(_same(old, item) and old["round"] <= item["round"] for old in self._rounds)
        forgotten = len(self._rounds) == self._rounds.maxlen and not older
        return forgotten or item in self._rounds

    @contextmanager
    def writing(self) -> Iterator[Records]:
        """Open the transaction that stores results, unless the job is to end."""
        self.check()
        with self.database.write() as records:
            yield records

    @contextmanager
    def finishing(self, key: Key) -> Iterator[Records]:
        """Open the transaction that stores the results of a combination and notes it as finished."""
        self.flush()
        if self.tracker is not None:
            self.tracker.flush()
        with self._finish_lock:
            with self._lock:
                others = [other for other in self._under_way if other != key]
            job = replace(self.job, finished=[*self.job.finished, key], current=others[-1] if others else None)
            with self.writing() as records:
                yield records
                Ledger(records).save(replace(job, attempts=0))
            self.job.finished, self.job.current, self.job.attempts = job.finished, job.current, 0

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


class Step:
    """One combination of a job, while it is worked on."""

    def __init__(self, task: Task, combination: Combination) -> None:
        self.combination = combination
        self.key = {name: combination.key[name] for name in ("project_id", "expt_id", "run_id")}
        self._task = task

    @property
    def title(self) -> str:
        """Name it in a message."""
        return f"{self.combination.expt_id}/{self.combination.run_id}"

    def watch(self, progress: RoundProgress) -> None:
        """Take in a round of its training."""
        self._task.take_in(self.key, progress)

    @contextmanager
    def finishing(self) -> Iterator[Records]:
        """Open the transaction that stores its results and notes it as finished."""
        with self._task.finishing(self.key) as records:
            yield records


class _Failures(SynergosError):
    """What went wrong with several combinations; the status is that of the first."""

    def __init__(self, failures: Mapping[str, BaseException]) -> None:
        super().__init__(" ".join(f"{title}: {error}" for title, error in failures.items()))
        self.status = next(error.status for error in failures.values() if isinstance(error, SynergosError))


def _same(old: Body, new: Body) -> bool:
    return (old["expt_id"], old["run_id"]) == (new["expt_id"], new["run_id"])


class JobQueue:
    """Has jobs done, outside the event loop, in the order that the grids choose.

    Args:
        lock: file that is locked while a job runs.
        processes: what does each kind of job; returns what the request is answered with.
        tracker: is told of trainings.
    """

    def __init__(
        self,
        database: Database,
        grids: Grids,
        lock: Path,
        processes: Mapping[Process, Callable[[Task], list[Body]]],
        tracker: Tracker | None = None,
    ) -> None:
        self._database = database
        self._grids = grids
        self._tracker = tracker
        self._lock_file = lock
        self._processes = processes
        self._log = get_logger("jobs")
        # Guards everything below; held for moments only, so that no request waits for a job.
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._running: dict[str, Task] = {}
        # Those that ended stay until their end is stored.
        self._live: dict[str, Task] = {}
        self._stopping = False

    def start(self) -> None:
        """Take up the jobs of an earlier process, then work."""
        with self._database.read() as records:
            ledger = Ledger(records)
            found = [(job, ledger.rounds(job.job_id)) for job in ledger.pending()]
        self._grids.start(self._reopen)
        # Those that are under way already first.
        for job, rounds in sorted(found, key=lambda each: each[0].state != "running"):
            self._log.info("job taken up again", **facts(job), code=202, attempts=job.attempts)
            job = replace(job, state="queued", trace_id=job.trace_id or trace.new())
            self._queue(self._task(job, rounds))
        threading.Thread(target=self._work, daemon=True, name="jobs").start()

    def stop(self) -> None:
        """Answer the requests that wait; their jobs are left to the next start."""
        with self._changed:
            self._stopping = True
            running = list(self._running)
            owner = self._grids.owner
            for task in self._live.values():
                _settle(
                    task, error=Stopped(f"The {owner} is being stopped: job {task.job.job_id} goes on at its start.")
                )
        # A stop is no fault of the jobs.
        with suppress(StorageFailure), self._database.write() as records:
            for job_id in running:
                Ledger(records).got_on(job_id)

    async def run(self, process: Process, ids: Mapping[str, str | None], order: Body) -> list[Body]:
        """Queue a job, wait for its end, and return what it returns or raise what it raises.

        The job goes on if nobody waits any more. Waiting takes no thread, so other requests are answered however
        many jobs wait. Jobs that are done elsewhere are not waited for: they return nothing.

        Raises:
            NotFound: a record that `ids` name does not exist; there is no job then.
        """
        task = await anyio.to_thread.run_sync(self.submit, process, ids, order)
        if not self._grids.here:
            return []
        return await asyncio.shield(asyncio.wrap_future(task.future))

    def submit(self, process: Process, ids: Mapping[str, str | None], order: Body) -> Task:
        """Store a job and put it at the end of the queue."""
        given = {name: value for name, value in ids.items() if value is not None}
        with self._changed:
            if self._stopping:
                raise Stopped(f"The {self._grids.owner} is being stopped: send the request again when it is back.")
            with self._database.write() as records:
                for kind in _NAMED:
                    if given.keys() >= set(kind.key):
                        records.get(kind, given)
                self._grids.check(records, process, given, order)
                job = Ledger(records).add(process, given, order, trace_id())
            task = self._task(job)
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

    def follow(self, job_id: str, heard: Callable[[], None]) -> None:
        """Have `heard` called when a job has ended; at once if it has."""
        with self._changed:
            task = self._live.get(job_id)
        if task is None:
            heard()
        else:
            task.future.add_done_callback(lambda _: heard())

    def note(self, *jobs: Job) -> Mapping[str, Body]:
        """Return what the grids tell of the progress of jobs, by job id."""
        return self._grids.note(jobs)

    @property
    def notice(self) -> str | None:
        """What those should know whose job is taken now."""
        return self._grids.notice

    def _reopen(self, job_id: str) -> None:
        with self._changed:
            if job_id in self._live or self._stopping:
                return
            with self._database.write() as records:
                ledger = Ledger(records)
                job = ledger.get(job_id)
                if job.state != "failed":
                    return
                job = replace(job, state="queued", reason=None, ended_at=None)
                ledger.save(job)
                rounds = ledger.rounds(job_id)
            self._queue(self._task(job, rounds))
        self._log.info("job taken up again", **facts(job), code=202, attempts=job.attempts)

    def _task(self, job: Job, rounds: Iterable[Body] = ()) -> Task:
        grids = self._grids
        return Task(job, self._database, grids.engine(job), rounds, grids.parallel, self._tracker)

    def _places(self) -> dict[str, int]:
        return {task.job.job_id: place for place, task in enumerate(self._waiting, 1)}

    def _queue(self, task: Task) -> None:
        with self._changed:
            self._live[task.job.job_id] = task
            self._waiting.append(task)
            self._changed.notify_all()

    def _cancel(self, task: Task, reason: str) -> None:
        if task.job.job_id not in self._running:
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
                if not task.job.pending:
                    return
                task.engine.cancel(reason)
            if task.ended.wait(_PRESS_SECONDS):
                return

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._stopping or (task := self._next()) is None:
                    self._changed.wait()
                self._waiting.remove(task)
                self._running[task.job.job_id] = task
            with bound(**facts(task.job)):
                threading.Thread(target=carry(self._execute), args=(task,), daemon=True, name="job").start()

    def _next(self) -> Task | None:
        running = [task.job for task in self._running.values()]
        job = self._grids.choose([task.job for task in self._waiting], running)
        return self._live[job.job_id] if job else None

    def _execute(self, task: Task) -> None:
        try:
            self._do(task)
        finally:
            with self._changed:
                self._running.pop(task.job.job_id)
                self._changed.notify_all()

    def _do(self, task: Task) -> None:
        job = task.job
        data: list[Body] = []
        error: SynergosError | None = None
        log = self._log
        begin = time.perf_counter()
        try:
            with exclusive(self._lock_file, shared=not self._grids.here), self._flushing(task):
                self._begin(task)
                data = self._processes[job.process](task)
        except SynergosError as expected:
            error = Cancelled(task.cancelled) if task.cancelled is not None else expected
        except Exception:
            log.exception("job failed", code=500)
            error = SynergosError(f"Internal error, see the {self._grids.owner}'s log.")
        with self._changed:
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
        if self._grids.here and job.attempts >= ATTEMPTS:
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
