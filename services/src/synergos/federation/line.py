"""A connection to one worker that is given up when the worker is gone, and not because the worker is slow."""

from __future__ import annotations

import contextlib
import http
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from synergos.errors import Cancelled, Unreachable

# A peer that vanished without a word (power, network) is noticed within half a minute, however long a round may take.
_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
]
_CONNECT = 5.0
_PAUSE = 0.2
# Seconds for a worker that has not answered yet, seconds between two looks at one that is at work, and for one look.
FIRST_ANSWER = 10.0
_WATCH = 2.0
_LOOK = 3.0
# What is read at once, and what is worth a system call of its own when it is sent.
_PIECE, _LARGE = 2**20, 2**16


@dataclass(frozen=True)
class Answer:
    """Status and body of an HTTP response."""

    status: int
    body: bytearray


class Cancellation:
    """Calls off the work of one job, on every line that was made with it. Callable from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._reason = ""

    def cancel(self, reason: str) -> None:
        """Make everything that is under way, and everything later, raise `Cancelled`."""
        self._reason = reason
        self._event.set()
        for listener in list(self._listeners):
            listener()

    @property
    def reason(self) -> str | None:
        """Why the work was called off, None if it was not."""
        return self._reason if self._event.is_set() else None

    def on_cancel(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when the work is called off."""
        self._listeners.append(listener)

    def check(self) -> None:
        """Raise `Cancelled` if the work was called off."""
        if self._event.is_set():
            raise Cancelled(self._reason)

    def pause(self, seconds: float) -> None:
        """Wait; raises `Cancelled` as soon as the work is called off."""
        self._event.wait(seconds)
        self.check()


class Line:
    """One request at a time to one address of a worker, repeated while the worker is away.

    A worker is away while it cannot be connected to, and while its health check does not answer beside a request that
    takes long. One that has been away for `grace` seconds, or for ten before its first answer, is unreachable.

    Args:
        participant_id: whose worker it is.
        url: what paths are appended to.
        health: URL of the worker's health check.
        grace: seconds that a worker which has answered may be away.
        cancellation: ends requests early.
    """

    def __init__(self, participant_id: str, url: str, health: str, grace: float, cancellation: Cancellation) -> None:
        self.answered = False
        self._participant_id, self._url, self._health, self._grace = participant_id, url, urlsplit(health), grace
        self._target = urlsplit(url)
        self._cancellation = cancellation
        # A bare socket: what an HTTP client adds takes longer than all else that the TTP does for a small message.
        self._socket: socket.socket | None = None
        self._begun: float | None = None
        self._away: float | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        cancellation.on_cancel(self._hang_up)

    def ask(
        self,
        method: str,
        path: str,
        content: Sequence[bytes | memoryview],
        headers: dict[str, str],
        timeout: float | None,
    ) -> Answer:
        """Send a request that may be repeated and return the answer, whatever its status.

        Args:
            content: the body in pieces.

        Raises:
            Unreachable: the worker is gone, or did not answer in `timeout` seconds.
            Cancelled: the work was called off.
        """
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True, name=f"watch-{self._participant_id}")
            self._watcher.start()
        headers = {"Host": self._target.netloc, **headers, "Content-Length": str(sum(map(len, content)))}
        lines = (f"{method} {self._target.path}{path} HTTP/1.1", *(f"{key}: {headers[key]}" for key in headers), "", "")
        request = ["\r\n".join(lines).encode(), *content]
        deadline = None if timeout is None else time.monotonic() + timeout
        self._away, trouble = None, "did not answer in time"
        while True:
            self._cancellation.check()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._unreachable(trouble)
            begun, connected = time.monotonic(), False
            self._begun = begun
            try:
                connection = self._connect(_CONNECT if left is None else min(_CONNECT, left))
                connected = True
                # Called off while it connected: nobody else would have closed it.
                self._cancellation.check()
                connection.settimeout(left)
                answer = self._talk(connection, method, request)
            except (OSError, http.client.HTTPException) as error:
                self._disconnect()
                # One with a number is the kernel's, whose probes were not answered.
                if connected and isinstance(error, TimeoutError) and error.errno is None:
                    raise self._unreachable("did not answer in time") from None
                self._cancellation.check()
                # A broken connection after a long wait is news of this moment, not of the moment of sending.
                away = self._away = self._away or (time.monotonic() if connected else begun)
                trouble = f"cannot be reached at {self._url}: {str(error) or 'no answer'}"
                if time.monotonic() - away >= self._patience:
                    raise self._unreachable(trouble) from None
                self._begun = None
                self._cancellation.pause(_PAUSE)
                continue
            finally:
                self._begun = None
            self.answered = True
            return answer

    def alive(self, timeout: float = _LOOK) -> bool:
        """Look whether the worker's health check answers."""
        connection = http.client.HTTPConnection(self._health.hostname or "", self._health.port, timeout=timeout)
        try:
            connection.request("GET", self._health.path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of the connection. Call it from the thread that asks, or when nothing is asked."""
        self._closed.set()
        self._disconnect()

    @property
    def _patience(self) -> float:
        return self._grace if self.answered else FIRST_ANSWER

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH):
            begun, look = self._begun, time.monotonic()
            if begun is None or look - begun < _WATCH:
                continue
            if self.alive(timeout=min(_LOOK, max(1.0, self._patience))):
                self.answered, self._away = True, None
            elif self._begun == begun:
                self._away = self._away or look
                if time.monotonic() - self._away >= self._patience:
                    self._hang_up()

    def _hang_up(self) -> None:
        # Closing would not wake a thread that reads.
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _connect(self, timeout: float) -> socket.socket:
        """Return the connection there is, as long as the worker has not closed it, or a new one."""
        if self._socket is not None:
            self._socket.settimeout(0)
            try:
                self._socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return self._socket
            except OSError:
                pass
            self._disconnect()
        connection = socket.create_connection((self._target.hostname or "", self._target.port or 80), timeout)
        for option in _OPTIONS:
            connection.setsockopt(*option)
        self._socket = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _talk(self, connection: socket.socket, method: str, request: Iterable[bytes | memoryview]) -> Answer:
        # A worker that refuses a large message says so, and closes, before it has read all of it.
        with contextlib.suppress(ConnectionError):
            _send(connection, request)
        body = bytearray()
        with contextlib.closing(http.client.HTTPResponse(connection, method=method)) as response:
            response.begin()
            while piece := response.read(_PIECE):
                body += piece
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        if response.will_close:
            self._disconnect()
        return Answer(response.status, body)

    def _unreachable(self, what: str) -> Unreachable:
        return Unreachable(f"Participant {self._participant_id} {what}")


def _send(connection: socket.socket, pieces: Iterable[bytes | memoryview]) -> None:
    """Send large pieces from where they lie, and small ones together."""
    small = bytearray()
    for piece in pieces:
        if len(piece) < _LARGE:
            small += piece
        if len(piece) >= _LARGE or len(small) >= _LARGE:
            connection.sendall(small)
            small.clear()
        if len(piece) >= _LARGE:
            connection.sendall(piece)
    if small:
        connection.sendall(small)
