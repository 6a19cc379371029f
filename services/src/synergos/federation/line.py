"""A connection to one worker that is given up when the worker is gone, and not because the worker is slow."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from synergos.errors import Cancelled, Unreachable

# A peer that vanished without a word (power, network) is noticed within half a minute, however long a round may take.
_KEEPALIVE = [
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
_PIECE = 2**20


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
        self._cancellation = cancellation
        # Transports, not clients: what a client adds (cookies, redirects, proxies) costs a third of a small round.
        self._transport = httpx.HTTPTransport(verify=False, socket_options=_KEEPALIVE)
        self._socket: socket.socket | None = None
        self._begun: float | None = None
        self._away: float | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        cancellation.on_cancel(self._hang_up)

    def ask(self, method: str, path: str, content: bytes, headers: dict[str, str], timeout: float | None) -> Answer:
        """Send a request that may be repeated and return the answer, whatever its status.

        Raises:
            Unreachable: the worker is gone, or did not answer in `timeout` seconds.
            Cancelled: the work was called off.
        """
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True, name=f"watch-{self._participant_id}")
            self._watcher.start()
        headers = {**headers, "Content-Length": str(len(content))}
        pieces = content if len(content) <= _PIECE else _Pieces(content)
        request = httpx.Request(method, self._url + path, headers=headers, content=pieces)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._away, trouble = None, "did not answer in time"
        while True:
            self._cancellation.check()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._unreachable(trouble)
            limits = httpx.Timeout(left, connect=_CONNECT if left is None else min(_CONNECT, left))
            request.extensions = {"timeout": limits.as_dict(), "trace": self._trace}
            begun = self._begun = time.monotonic()
            try:
                response = self._transport.handle_request(request)
                # Not `response.read()`, which keeps a list of all pieces first: twice the size, in crumbs.
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                response.close()
            except (httpx.ReadTimeout, httpx.WriteTimeout):
                raise self._unreachable("did not answer in time") from None
            except httpx.TransportError as error:
                self._cancellation.check()
                # A broken connection after a long wait is news of this moment, not of the moment of sending.
                failed_at_once = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                away = self._away = self._away or (begun if failed_at_once else time.monotonic())
                trouble = f"cannot be reached at {self._url}: {str(error) or 'no answer'}"
                if time.monotonic() - away >= self._patience:
                    raise self._unreachable(trouble) from None
                self._begun = None
                self._cancellation.pause(_PAUSE)
                continue
            finally:
                self._begun = None
            self.answered = True
            return Answer(response.status_code, body)

    def alive(self, timeout: float = _LOOK) -> bool:
        """Look whether the worker's health check answers."""
        connection = http.client.HTTPConnection(self._health.hostname or "", self._health.port, timeout=timeout)
        try:
            connection.request("GET", self._health.path)
            return connection.getresponse().status == httpx.codes.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of the connection. Call it from the thread that asks, or when nothing is asked."""
        self._closed.set()
        self._transport.close()

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
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _trace(self, event: str, facts: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._socket = facts["return_value"].get_extra_info("socket")

    def _unreachable(self, what: str) -> Unreachable:
        return Unreachable(f"Participant {self._participant_id} {what}")


class _Pieces:
    """A large body in pieces: as one it would be copied at each partial write of its rest."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self._content[i : i + _PIECE]) for i in range(0, len(self._content), _PIECE))
