"""Connections to the broker that keep themselves up, and publishing that tells whether a message is safe."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pika
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    NackError,
    ProbableAuthenticationError,
    UnroutableError,
)

from synergos.errors import SynergosError
from synergos.logs import get_logger
from synergos.queue.messages import DEAD_QUEUE, JOB_QUEUES, RESULT_QUEUES, Cancel, Message, Progress, encode, route

T = TypeVar("T")

CREDENTIALS = Path("/run/secrets/queue")
HEARTBEAT = 30  # seconds
# How long a broker short of memory or disk may hold up a connection, seconds.
BLOCKED = 60
_PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
# Seconds after which a thread that waits for the broker looks round by itself.
TICK = 1.0
# Progress that waits for the broker.
TOLD = 1000

# Whatever it would say is in the errors that it raises.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class BrokerAway(SynergosError):
    """A broker that cannot be reached or does not confirm: whether it has the message is not known."""

    status = 503


class Unroutable(SynergosError):
    """A message that the broker has no place for: its queues or this user's rights are not set up."""

    status = 500


@dataclass(frozen=True)
class Address:
    """Where the broker listens, and who asks."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def read(cls, host: str, port: int, path: Path = CREDENTIALS) -> Address:
        """Take user and password from a file with one line `user:password`.

        Raises:
            SynergosError: the file cannot be read or holds something else.
        """
        try:
            user, colon, password = path.read_text(encoding="utf-8").strip().partition(":")
        except OSError as error:
            raise SynergosError(f"The broker's user and password cannot be read: {error}.") from error
        if not (user and colon and password):
            raise SynergosError(f"{path} must hold one line: the broker's user, a colon, the password.")
        return cls(host, port, user, password)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Depth:
    """A queue: messages that wait in it, and who waits for some."""

    messages: int
    consumers: int


class Line(ABC):
    """A connection that a thread of its own keeps up: heartbeats go on whatever else the process does.

    Args:
        address: the broker.
        name: what the broker shows for it.
    """

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._log = get_logger("queue")
        self._closing = threading.Event()
        self._up = threading.Event()
        self._lock = threading.Lock()
        self._connection: pika.BlockingConnection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"queue {type(self).__name__}")
        self._complaint = ""

    @property
    def connected(self) -> bool:
        """Whether the broker is there, as far as is known."""
        return self._up.is_set()

    @property
    def trouble(self) -> str:
        """Why it is away; empty if that is not known."""
        return self._complaint

    def start(self) -> None:
        """Connect, now or as soon as the broker answers; returns at once."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Disconnect for good."""
        self._closing.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @abstractmethod
    def _serve(self, connection: pika.BlockingConnection) -> None:
        """Call `_ready` when all is set up, and return when `_closing` is set; raise if the connection is lost."""

    def _ready(self) -> None:
        if self._complaint:
            self._log.info("broker is back", code=200, broker=str(self._address))
        self._complaint = ""
        self._up.set()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._connect_and_serve()
            except Exception as error:
                self._complain(error)
            finally:
                self._up.clear()
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            self._closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._closed()

    def _connect_and_serve(self) -> None:
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                host=self._address.host,
                port=self._address.port,
                credentials=pika.PlainCredentials(self._address.user, self._address.password),
                heartbeat=HEARTBEAT,
                blocked_connection_timeout=BLOCKED,
                socket_timeout=5,
                stack_timeout=10,
                client_properties={"connection_name": self._name},
            )
        )
        with self._lock:
            self._connection = connection
        try:
            self._serve(connection)
        finally:
            with self._lock:
                self._connection = None
            with suppress(AMQPError, OSError):
                if connection.is_open:
                    connection.close()

    def _complain(self, error: Exception) -> None:
        # The library wraps what the socket said in exceptions without a text.
        causes = " ".join(str(getattr(item, "exception", item)) for item in error.args)
        text = str(error) or causes or type(error).__name__
        if isinstance(error, (AuthenticationError, ProbableAuthenticationError)):
            text = (
                f"It refuses user {self._address.user} with the password of the credentials file (ACCESS_REFUSED): "
                "converge the grid again."
            )
        if text == self._complaint:
            return
        self._complaint = text
        expected = isinstance(error, (AMQPError, OSError))
        self._log.warning(
            "broker is away",
            code=503,
            broker=str(self._address),
            description=f"Tried again until it is back: {text}",
            exc_info=None if expected else error,
        )

    def _wake(self) -> None:
        """Make the thread look round now."""
        with self._lock, suppress(AMQPError, OSError):
            if self._connection is not None:
                self._connection.add_callback_threadsafe(lambda: None)

    def _closed(self) -> None:  # noqa: B027
        """Called at the end of the thread."""


class _Call:
    """Something that the thread of a connection does for another thread, again after each loss of the connection."""

    def __init__(self, action: Callable[[pika.BlockingConnection, Any], Any]) -> None:
        self.action = action
        self.future: Future[Any] = Future()


class Publisher(Line):
    """Publishes messages; usable from any thread."""

    def __init__(self, address: Address, name: str) -> None:
        super().__init__(address, name)
        self._calls: deque[_Call] = deque()
        self._told: deque[Progress] = deque(maxlen=TOLD)

    def __enter__(self) -> Publisher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, message: Message, timeout: float | None = 10.0) -> None:
        """Publish a message and wait until the broker has it on disk, in every queue that it belongs to.

        Tries again when the connection is lost meanwhile, so the broker may get it twice.

        Args:
            message: a job, an answer or a call to cancel.
            timeout: seconds to wait, None for as long as it takes.

        Raises:
            BrokerAway: no confirmation in that time, or the broker declined it.
            Unroutable: there is no queue for it, or this user may not publish it.
        """
        exchange, key = route(message)
        body = encode(message)
        # To everybody who listens, be it nobody.
        mandatory = not isinstance(message, Cancel)

        def send(_: pika.BlockingConnection, channel: Any) -> None:
            try:
                channel.basic_publish(exchange, key, body, _PERSISTENT, mandatory=mandatory)
            except UnroutableError:
                raise Unroutable(
                    f"The broker has no queue for messages to {exchange} with key {key}: converge the grid again."
                ) from None
            except NackError:
                raise BrokerAway(f"The broker at {self._address} did not accept the message.") from None

        self._ask(send, timeout)

    def tell(self, progress: Progress) -> None:
        """Publish progress some time soon, if the broker is there. Never waits."""
        self._told.append(progress)
        self._wake()

    def depths(self, timeout: float = 5.0) -> dict[str, Depth]:
        """Return how full the queues are; those that do not exist are left out. Raises `BrokerAway`."""

        def look(connection: pika.BlockingConnection, _: Any) -> dict[str, Depth]:
            found = {}
            for name in (*JOB_QUEUES, *RESULT_QUEUES, DEAD_QUEUE):
                # A queue that does not exist costs the channel.
                channel = connection.channel()
                with suppress(ChannelClosedByBroker):
                    declared = channel.queue_declare(name, passive=True).method
                    found[name] = Depth(declared.message_count, declared.consumer_count)
                    channel.close()
            return found

        return self._ask(look, timeout)

    def _ask(self, action: Callable[[pika.BlockingConnection, Any], T], timeout: float | None) -> T:
        call = _Call(action)
        with self._lock:
            if not self._closing.is_set():
                self._calls.append(call)
        if self._closing.is_set():
            call.future.cancel()
            raise BrokerAway("The connection to the broker is closed.")
        self._wake()
        try:
            result: T = call.future.result(timeout)
        except TimeoutError:
            call.future.cancel()
            reason = f": {self._complaint}" if self._complaint else ""
            raise BrokerAway(
                f"The broker at {self._address} did not confirm within {timeout:g} s{reason}. Try again later."
            ) from None
        return result

    def _serve(self, connection: pika.BlockingConnection) -> None:
        channel = connection.channel()
        channel.confirm_delivery()
        loose = connection.channel()
        self._ready()
        while not self._closing.is_set():
            while self._calls:
                self._do(self._calls[0], connection, channel)
                self._calls.popleft()
            while self._told:
                exchange, key = route(self._told[0])
                loose.basic_publish(exchange, key, encode(self._told.popleft()))
            connection.process_data_events(TICK)
            if loose.is_closed or channel.is_closed:
                raise AMQPError("The broker closed a channel: are its exchanges and this user's rights set up?")

    def _do(self, call: _Call, connection: pika.BlockingConnection, channel: Any) -> None:
        # A call whose caller gave up is cancelled; it may have been sent by then.
        if call.future.done():
            return
        try:
            result = call.action(connection, channel)
        except SynergosError as error:
            _settle(call.future, error=error)
        except ChannelClosedByBroker as error:
            # Its exchange or the right to use it is missing. The next call needs another channel.
            _settle(call.future, error=Unroutable(f"The broker did not take the message: {error.reply_text}."))
            raise
        else:
            _settle(call.future, result)

    def _closed(self) -> None:
        with self._lock:
            calls = list(self._calls)
            self._calls.clear()
        for call in calls:
            _settle(call.future, error=BrokerAway("The connection to the broker is closed."))


def _settle(future: Future[Any], result: Any = None, error: Exception | None = None) -> None:
    # Done already, or not running now, if the caller gave up.
    if not future.done() and future.set_running_or_notify_cancel():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
