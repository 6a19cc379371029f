"""Taking messages: one at a time, the most urgent queue first, acknowledged only when what it brought is safe.

A consumer that becomes free asks the queues in order of urgency for a message that waits already. Only if there is none
does it subscribe to all of them, until the first message comes: so nothing is polled, and no message is held back by a
consumer that works on another one.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
from pika.exceptions import AMQPError

from synergos.errors import SynergosError
from synergos.logs import bound
from synergos.queue.broker import TICK, Address, BrokerAway, Line, Publisher
from synergos.queue.messages import (
    CONTROL,
    JOB_QUEUES,
    RESULT_QUEUES,
    Cancel,
    Completed,
    Failure,
    Job,
    Lost,
    Malformed,
    Progress,
    decode,
)

# Seconds until a consumer that gave a message back takes another one.
GIVEN_BACK = 5.0
# Seconds between tries to store or to publish something.
FIRST_RETRY, LAST_RETRY = 1.0, 30.0
# Answers that are remembered, for messages that come again because their acknowledgement was lost.
REMEMBERED = 1000


class GiveBack(Exception):
    """Raised by work that another grid should do; the message tells why."""


@dataclass(frozen=True)
class Delivery:
    """A message that is ours until it is acknowledged. `times` counts deliveries before that ended without a word."""

    queue: str
    tag: int
    headers: dict[str, Any]
    body: bytes

    @property
    def times(self) -> int:
        return int(self.headers.get("x-delivery-count", 0))


class _Work:
    """What is done about a message, in a thread of its own. `finished` becomes true or false: what for the message."""

    def __init__(self, action: Callable[[], bool], wake: Callable[[], None]) -> None:
        self._action = action
        self._wake = wake
        self.ended = threading.Event()
        self.finished = False
        threading.Thread(target=self._run, daemon=True, name="work").start()

    def _run(self) -> None:
        try:
            self.finished = self._action()
        finally:
            self.ended.set()
            self._wake()


class Consumer(Line):
    """Takes messages one by one.

    Args:
        queues: names, most urgent first.
    """

    def __init__(self, address: Address, name: str, queues: Sequence[str]) -> None:
        super().__init__(address, name)
        self._queues = tuple(queues)
        self._work: _Work | None = None
        self._gone: list[Any] = []

    @abstractmethod
    def _read(self, delivery: Delivery) -> Callable[[], bool] | None:
        """Return what is to be done about a message, None if nothing is.

        What is done runs in another thread; it returns whether the message is finished with, or goes back.

        Raises:
            Malformed: the message is to be put aside.
        """

    def _serve(self, connection: pika.BlockingConnection) -> None:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        # A queue that is deleted cancels its consumer.
        self._gone = []
        channel.add_on_cancel_callback(self._gone.append)
        self._ready()
        # From before the connection was lost: its message is no longer ours, but one thing is done at a time.
        self._await(connection, channel)
        while not self._closing.is_set():
            delivery = self._next(connection, channel)
            if delivery is not None:
                self._handle(connection, channel, delivery)

    def _next(self, connection: pika.BlockingConnection, channel: Any) -> Delivery | None:
        self._gone.clear()
        for queue in self._queues:
            method, properties, body = channel.basic_get(queue)
            if method is not None:
                return Delivery(queue, method.delivery_tag, properties.headers or {}, body)
        arrived: list[Delivery] = []

        def take(queue: str, _: Any, method: Any, properties: Any, body: bytes) -> None:
            arrived.append(Delivery(queue, method.delivery_tag, properties.headers or {}, body))

        tags = [channel.basic_consume(queue, partial(take, queue)) for queue in self._queues]
        while not (arrived or self._gone or self._closing.is_set()):
            self._pass(connection, channel, TICK)
        for tag in tags:
            # What slips in meanwhile goes back to its queue here, too.
            channel.basic_cancel(tag)
        arrived.sort(key=lambda delivery: self._queues.index(delivery.queue))
        for delivery in arrived[1:]:
            channel.basic_nack(delivery.tag, requeue=True)
        return arrived[0] if arrived else None

    def _handle(self, connection: pika.BlockingConnection, channel: Any, delivery: Delivery) -> None:
        try:
            action = self._read(delivery)
        except Malformed as error:
            self._log.error("malformed message", code=417, queue=delivery.queue, description=str(error))
            channel.basic_reject(delivery.tag, requeue=False)
            return
        if action is None:
            channel.basic_ack(delivery.tag)
            return
        self._work = work = _Work(action, self._wake)
        self._await(connection, channel)
        if work.ended.is_set() and work.finished:
            channel.basic_ack(delivery.tag)
        else:
            channel.basic_nack(delivery.tag, requeue=True)
            until = threading.Event()
            connection.call_later(GIVEN_BACK, until.set)
            while not (until.is_set() or self._closing.is_set()):
                self._pass(connection, channel, TICK)

    def _await(self, connection: pika.BlockingConnection, channel: Any) -> None:
        """Keep the connection up until the work has ended, or the consumer is closed."""
        while self._work is not None and not self._work.ended.is_set():
            if self._closing.is_set():
                return
            self._pass(connection, channel, TICK)
        self._work = None

    @staticmethod
    def _pass(connection: pika.BlockingConnection, channel: Any, seconds: float) -> None:
        connection.process_data_events(seconds)
        if channel.is_closed:
            raise AMQPError(
                "The broker closed the channel; was a message not acknowledged within its consumer time-out?"
            )

    def _retry(self, action: Callable[[], None], event: str) -> bool:
        """Do something until it works; says whether it did before the consumer was closed.

        What fails for a reason that nobody has foreseen is given back instead: the broker puts aside what comes back
        too often, so that no message holds up the others for ever.
        """
        pause = FIRST_RETRY
        while not self._closing.is_set():
            try:
                action()
                return True
            except SynergosError as error:
                self._log.error(event, code=error.status, description=f"Tried again in {pause:g} s: {error}")
            except Exception:
                self._log.exception(event, code=500)
                return False
            self._closing.wait(pause)
            pause = min(2 * pause, LAST_RETRY)
        return False


class JobConsumer(Consumer):
    """Does the jobs of one grid.

    Args:
        address: the broker.
        name: id of the TTP.
        grid: index of the grid.
        publisher: takes what is told about jobs.
        work: does a job and returns its outputs. A `SynergosError` is told as the job's failure, `GiveBack` leaves the
            job to another grid, and everything else is logged and told as an internal error.
        queues: where jobs come from, most urgent first.
    """

    def __init__(
        self,
        address: Address,
        name: str,
        grid: int,
        publisher: Publisher,
        work: Callable[[Job], dict[str, Any]],
        queues: Sequence[str] = JOB_QUEUES,
    ) -> None:
        super().__init__(address, name, queues)
        self._grid = grid
        self._publisher = publisher
        self._do = work
        self._answered: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self.job: Job | None = None

    def _read(self, delivery: Delivery) -> Callable[[], bool] | None:
        job = decode(delivery.body)
        if not isinstance(job, Job):
            raise Malformed(f"kind: a job is expected here, not {job.kind!r}")
        if delivery.times:
            self._log.warning("job delivered again", code=200, times=delivery.times, **_facts(job))
        if job.identity in self._answered:
            return None
        return partial(self._execute, job)

    def _execute(self, job: Job) -> bool:
        self.job = job
        try:
            with bound(**_facts(job)):
                return self._answer(job)
        finally:
            self.job = None

    def _answer(self, job: Job) -> bool:
        known: dict[str, Any] = {
            "job_id": job.job_id,
            "part": job.part,
            "attempt": job.attempt,
            "grid": self._grid,
            "ttp": self._name,
            "trace_id": job.trace_id,
        }
        self._publisher.tell(Progress(**known, state="taken"))
        outputs: dict[str, Any] = {}
        failure = None
        try:
            outputs = self._do(job)
        except GiveBack as reason:
            self._log.warning("job given back", code=409, description=str(reason))
            return False
        except SynergosError as error:
            failure = Failure(reason=error.message, status=error.status)
        except Exception:
            self._log.exception("job failed", code=500)
            failure = Failure(reason=f"Internal error, see the log of {self._name}.", status=500)
        answer = Completed(**known, process=job.process, filters=job.keys, outputs=outputs, failure=failure)
        if not self._retry(partial(self._publish, answer), "result cannot be published"):
            return False
        self._answered[job.identity] = None
        if len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)
        return True

    def _publish(self, answer: Completed) -> None:
        while not self._closing.is_set():
            try:
                return self._publisher.publish(answer)
            except BrokerAway:
                # Told by the publisher. It comes back.
                self._closing.wait(TICK)
        raise BrokerAway("The TTP is being stopped.")


class ResultConsumer(Consumer):
    """Takes what the grids tell, for the Director.

    Args:
        address: the broker.
        name: id of the Director.
        take: keeps a message; if it raises a `SynergosError`, that is logged and it is called again, for the same
            message, until it does not. It must stand the same message twice.
    """

    def __init__(self, address: Address, name: str, take: Callable[[Completed | Progress | Lost], None]) -> None:
        super().__init__(address, name, RESULT_QUEUES)
        self._take = take

    def _read(self, delivery: Delivery) -> Callable[[], bool] | None:
        cause = delivery.headers.get("x-first-death-reason")
        try:
            message = decode(delivery.body)
        except Malformed:
            if cause:
                return None  # it is among the dead letters, and nobody's job
            raise
        if cause:
            if not isinstance(message, Job):
                return None
            return partial(self._keep, Lost(job=message, cause=cause), _facts(message))
        if isinstance(message, (Completed, Progress)):
            return partial(self._keep, message, {"job_id": message.job_id, "trace_id": message.trace_id})
        raise Malformed(f"kind: what a grid tells is expected here, not {message.kind!r}")

    def _keep(self, message: Completed | Progress | Lost, facts: dict[str, Any]) -> bool:
        with bound(**facts):
            kept = self._retry(partial(self._take, message), "what a grid told cannot be stored")
            # Progress may be lost, and its queue would bring it back for ever.
            return kept or isinstance(message, Progress)


class Controls(Line):
    """Hears what is said to all TTPs; what is said while it is not connected is lost.

    Args:
        take: must return soon.
    """

    def __init__(self, address: Address, name: str, take: Callable[[Cancel], None]) -> None:
        super().__init__(address, name)
        self._take = take

    def _serve(self, connection: pika.BlockingConnection) -> None:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, CONTROL)
        channel.basic_consume(queue, self._heard, auto_ack=True)
        self._ready()
        while not self._closing.is_set():
            connection.process_data_events(TICK)
            if channel.is_closed:
                raise AMQPError("The broker closed the channel.")

    def _heard(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        try:
            message = decode(body)
        except Malformed as error:
            self._log.error("malformed message", code=417, queue="control", description=str(error))
            return
        if isinstance(message, Cancel):
            self._take(message)


def _facts(job: Job) -> dict[str, Any]:
    return {"job_id": job.job_id, "process": job.process, "trace_id": job.trace_id}
