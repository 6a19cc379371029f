"""Parts of jobs that wait for their turn, are at the broker or at a grid: sent once, and never forgotten.

A part is stored before it is sent, and what comes back is stored before it is acknowledged. So whatever ends the
process in between, the next one knows which parts it need not send again, and finds the answers that it has.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from synergos.errors import Cancelled, SynergosError
from synergos.federation.line import Cancellation
from synergos.jobs import Watch
from synergos.logs import get_logger
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.parts import Part, Parts
from synergos.queue import BrokerAway, Cancel, Completed, Failure, Job, Lost, Progress, Publisher

# Messages in flight per queue: so many for each grid, so that none waits for the next while others do not wait either.
AHEAD = 2
# Grids that there are at least, until more of them have been heard of.
EXPECTED = 2
# Seconds that a grid may take to answer that it has called a job off.
CALLED_OFF = 30.0
_SEND_SECONDS = 30.0
# Seconds between two looks for messages that the broker had and has no more.
_LOOK_SECONDS = 30.0
_TICK = 1.0

Name = tuple[str, str]


@dataclass(eq=False)
class _Waiting:
    """A part that somebody waits for."""

    message: Job
    watch: Watch | None
    number: int
    part: Part
    in_flight: bool = False
    answer: Completed | None = None
    called_off: float | None = None
    missed: int = 0

    @property
    def collaboration(self) -> str:
        return self.message.keys[0]


class Desk:
    """Gives parts to the broker, a few at a time, and takes what the grids tell.

    Which one is next is decided among collaborations, so that none waits for all the jobs of another.
    """

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self._log = get_logger("desk")
        # Guards everything below.
        self._changed = threading.Condition()
        self._waiting: dict[Name, _Waiting] = {}
        self._served: Counter[str] = Counter()
        self._number = self._turn = 0
        self._ttps: set[str] = set()
        self._calls: dict[str, str] = {}
        self._closed = threading.Event()
        self._reopen: Callable[[str], None] = lambda _: None

    def start(self, reopen: Callable[[str], None]) -> None:
        """Begin to call off what is to be called off, and to look for what the broker has lost.

        Args:
            reopen: takes the id of a job that failed because a part of it was lost, when that is answered after all.
        """
        self._reopen = reopen
        threading.Thread(target=self._call_off, daemon=True, name="calls").start()
        threading.Thread(target=self._look_after, daemon=True, name="missed").start()

    def close(self) -> None:
        """Give up what cannot be sent; it is sent by the next process."""
        self._closed.set()

    @property
    def window(self) -> int:
        """How many parts may be in flight per queue."""
        return AHEAD * max(EXPECTED, len(self._ttps))

    def do(self, message: Job, cancellation: Cancellation, watch: Watch | None = None) -> Completed:
        """Have a part done and return the answer, which may be a failure; an answer that came before is returned again.

        Raises:
            Cancelled: `cancellation` came first.
        """
        name = message.job_id, message.part
        # Before the records are read: an answer that comes meanwhile would be missed.
        with self._changed:
            self._number += 1
            waiting = self._waiting[name] = _Waiting(message, watch, self._number, Part(*name))
        cancellation.on_cancel(self._look)
        try:
            self._look_up(waiting)
            if self._await_turn(waiting, cancellation):
                self._send(waiting, cancellation)
            return self._await_answer(waiting, cancellation)
        finally:
            with self._changed:
                del self._waiting[name]
                self._changed.notify_all()

    def at_work(self) -> set[int]:
        """Return the grids that have a part now."""
        with self._changed:
            parts = [waiting.part for waiting in self._waiting.values()]
        return {part.grid for part in parts if part.state == "taken" and part.grid is not None}

    def again(self, message: Job) -> None:
        """Have a part done anew: what came back is of no use."""
        with self._database.write() as records:
            part = Parts(records).find(message.job_id, message.part)
            assert part is not None
            Parts(records).save(Part(part.job_id, part.part, part.attempt + 1))

    def call_off(self, job_id: str, reason: str) -> None:
        """Tell the grids soon that a job is to end. Never waits."""
        with self._changed:
            self._calls[job_id] = reason
            self._changed.notify_all()

    def take(self, told: Completed | Progress | Lost) -> None:
        """Take in what a grid or the broker tells; what is told again changes nothing. Raises `StorageFailure`."""
        if isinstance(told, Progress):
            self._take_progress(told)
        elif isinstance(told, Lost):
            self._log.error("job lost", code=500, cause=told.cause, part=told.job.part)
            reason = f"No grid could do it: the broker gave it up ({told.cause}) and has it among the dead letters."
            lost = Completed(
                **told.job.model_dump(include={"job_id", "part", "attempt", "trace_id", "process"}),
                grid=-1,
                ttp="",
                filters=told.job.keys,
                failure=Failure(reason=reason, status=500),
            )
            self._take_answer(lost)
        else:
            self._take_answer(told)

    def note(self, job_ids: Collection[str]) -> dict[str, Body]:
        """Return where the parts of jobs are or were."""
        with self._database.read() as records:
            parts = Parts(records).of(job_ids)
        with self._changed:
            known = {(part.job_id, part.part) for part in parts}
            live = [waiting.part for name, waiting in self._waiting.items() if name not in known]
        notes: dict[str, Body] = {job_id: {"parts": []} for job_id in job_ids}
        for part in (*parts, *(part for part in live if part.job_id in notes)):
            shown = {name: getattr(part, name) for name in ("part", "state", "attempt", "grid", "ttp")}
            notes[part.job_id]["parts"].append({name: value for name, value in shown.items() if value is not None})
        return notes

    def _take_answer(self, answer: Completed) -> None:
        name = answer.job_id, answer.part
        facts = {"part": answer.part, "attempt": answer.attempt, "grid": answer.grid, "ttp": answer.ttp}
        with self._database.write() as records:
            part = Parts(records).find(*name)
            if part is None or part.attempt != answer.attempt or (part.state == "lost" and not answer.ttp):
                self._log.info("answer not needed", code=200, **facts)
                return
            known = part.state == "answered"
            # Somebody had it put back from among the dead letters; perhaps this is stored, and the process ended then.
            found = answer.failure is None and (part.state == "lost" or (known and part.answer is not None))
            taken = replace(
                part,
                state="answered" if answer.ttp else "lost",
                grid=answer.grid if answer.ttp else part.grid,
                ttp=answer.ttp or part.ttp,
                answer=answer.model_dump(mode="json"),
            )
            if not known:
                Parts(records).save(taken)
        if known:
            self._log.info("answer not needed", code=200, **facts)
            if found:
                self._reopen(answer.job_id)
            return
        status = answer.failure.status if answer.failure else 200
        self._log.info("part answered", code=status, **facts)
        with self._changed:
            if answer.ttp:
                self._ttps.add(answer.ttp)
            if waiting := self._waiting.get(name):
                waiting.part, waiting.answer, waiting.in_flight = taken, answer, False
            self._changed.notify_all()
        if found:
            self._reopen(answer.job_id)

    def _take_progress(self, told: Progress) -> None:
        name = told.job_id, told.part
        with self._changed:
            waiting = self._waiting.get(name)
        known = waiting is not None and waiting.part.state == "taken" and waiting.part.ttp == told.ttp
        if not known:
            with self._database.write() as records:
                part = Parts(records).find(*name)
                wanted = Ledger(records).pending(told.job_id)
                live = part is not None and part.attempt == told.attempt and part.state in ("sending", "sent", "taken")
                if part is not None and live:
                    part = replace(part, state="taken", grid=told.grid, ttp=told.ttp)
                    Parts(records).save(part)
            if not wanted and (part is None or part.state != "lost"):
                self.call_off(told.job_id, "The job has ended.")
            if part is None or not live:
                return
            self._log.info("part taken", code=200, part=told.part, grid=told.grid, ttp=told.ttp)
            with self._changed:
                self._ttps.add(told.ttp)
                if waiting is not None and waiting.answer is None:
                    waiting.part, waiting.in_flight = part, True
                self._changed.notify_all()
        if waiting is not None and waiting.answer is None and waiting.watch is not None and told.round is not None:
            waiting.watch(told.round)

    def _look_up(self, waiting: _Waiting) -> None:
        """Find out how far a part is."""
        name = waiting.message.job_id, waiting.message.part
        with self._database.read() as records:
            part = Parts(records).find(*name) or Part(*name)
        answer = Completed.model_validate(part.answer) if part.answer is not None else None
        if answer is None and part.state in ("answered", "lost"):
            # Of a job that had ended.
            part = Part(*name, part.attempt + 1)
        with self._changed:
            # What was told meanwhile is newer.
            if waiting.part.state == "sending":
                waiting.part, waiting.answer = part, answer
                waiting.in_flight = answer is None and part.state != "sending"
            waiting.message = waiting.message.model_copy(update={"attempt": waiting.part.attempt})

    def _await_turn(self, waiting: _Waiting, cancellation: Cancellation) -> bool:
        """Wait until a part may be sent; returns false if the broker or a grid turns out to have it."""
        with self._changed:
            while waiting.part.state == "sending" and not self._is_next(waiting):
                cancellation.check()
                self._changed.wait(_TICK)
            if waiting.part.state != "sending":
                return False
            cancellation.check()
            waiting.in_flight = True
            self._turn += 1
            self._served[waiting.collaboration] = self._turn
            self._changed.notify_all()
            return True

    def _is_next(self, waiting: _Waiting) -> bool:
        queue = waiting.message.queue
        same = [other for other in self._waiting.values() if other.message.queue == queue]
        in_flight = Counter(other.collaboration for other in same if other.in_flight)
        if in_flight.total() >= self.window:
            return False

        def rank(other: _Waiting) -> tuple[int, int, int]:
            return in_flight[other.collaboration], self._served[other.collaboration], other.number

        unsent = [other for other in same if not other.in_flight and other.answer is None]
        return min(unsent, key=rank) is waiting

    def _send(self, waiting: _Waiting, cancellation: Cancellation) -> None:
        with self._database.write() as records:
            stored = Parts(records).find(waiting.part.job_id, waiting.part.part)
            # Sent before the process ended, if it is there: a grid may be at work on it, or have answered.
            if stored is None or stored.attempt < waiting.part.attempt:
                Parts(records).save(waiting.part)
        while True:
            try:
                self._publisher.publish(waiting.message, _SEND_SECONDS)
                break
            except BrokerAway as error:
                # It may be there all the same.
                if waiting.answer is not None:
                    return
                if self._closed.is_set():
                    raise
                self._log.warning("part not sent yet", code=error.status, reason=error.message)
            cancellation.check()
        sent = replace(waiting.part, state="sent")
        with self._changed:
            # The grid may have been faster than the confirmation.
            if waiting.part.state != "sending":
                return
            waiting.part = sent
        with self._database.write() as records:
            stored = Parts(records).find(sent.job_id, sent.part)
            if stored is not None and stored.state == "sending":
                Parts(records).save(sent)
        self._log.info("part sent", code=202, part=sent.part, attempt=sent.attempt)

    def _await_answer(self, waiting: _Waiting, cancellation: Cancellation) -> Completed:
        with self._changed:
            while waiting.answer is None:
                if cancellation.reason is not None:
                    waiting.called_off = waiting.called_off or time.monotonic()
                    deaf = time.monotonic() - waiting.called_off > CALLED_OFF
                    if waiting.part.state != "taken" or deaf:
                        raise Cancelled(cancellation.reason)
                self._changed.wait(_TICK)
            return waiting.answer

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _call_off(self) -> None:
        while True:
            with self._changed:
                while not self._calls:
                    self._changed.wait()
                job_id = next(iter(self._calls))
                reason = self._calls.pop(job_id)
            try:
                self._publisher.publish(Cancel(job_id=job_id, reason=reason), _TICK)
            except BrokerAway:
                self._log.warning("job not called off", code=503, job_id=job_id)

    def _look_after(self) -> None:
        """Send again what nobody took and what is in no queue any more: somebody emptied it, or the broker's disk."""
        while not self._closed.wait(_LOOK_SECONDS):
            with self._changed:
                sent = [waiting for waiting in self._waiting.values() if waiting.part.state == "sent"]
            try:
                depths = self._publisher.depths() if sent else {}
                for waiting in sent:
                    depth = depths.get(waiting.message.queue)
                    gone = depth is not None and depth.messages == 0 and waiting.part.state == "sent"
                    # Twice: it may just have been taken.
                    waiting.missed = waiting.missed + 1 if gone else 0
                    if waiting.missed > 1:
                        message = waiting.message
                        self._log.warning("part sent again", code=503, job_id=message.job_id, part=message.part)
                        self._publisher.publish(message, _SEND_SECONDS)
                        waiting.missed = 0
            except SynergosError as error:
                self._log.warning("broker not asked", code=error.status, reason=error.message)
