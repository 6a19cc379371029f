"""Sends lines to a log server over TCP, in order, without ever keeping whoever logs waiting.

The server never answers, so nobody knows what it has read: TCP takes lines that are lost when the server dies. Lines
of the last moments are therefore kept after they were sent, and sent again over the next connection.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple, Protocol

# Bounds of what waits for a server that is away, and the same for what may have to be sent again.
LINES, BYTES = 50_000, 32 * 2**20
# Seconds that a line is kept after the server's TCP has confirmed it: more than a server takes to read and store it.
_KEPT = 30.0
_BATCH = 64 * 1024
# Lines of a burst travel together: one wake-up of the thread for all of them.
_GATHER = 0.02
_CONNECT, _TRIAL = 3.0, 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# A connection that holds for so many seconds is a working one: the next pause is the first again.
_STEADY = 5.0
_TELL = 10.0
# A server that vanished without a word is noticed after 20 s (lines on their way) or 25 s (nothing to say).
_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
]


class Say(Protocol):
    """Prints a line about the sending itself, and returns it for the server."""

    def __call__(self, event: str, level: str, **fields: object) -> bytes:
        """Print the line on standard output only."""


class _Batch(NamedTuple):
    # `end` counts the bytes of the connection up to here; `confirmed` is when the server's TCP had them, 0 while not.
    end: int
    lines: list[bytes]
    confirmed: float


class Sender:
    """A connection to one port of a log server, with what waits for it. Usable from any thread, and after a fork.

    Args:
        host, port: of the server.
        say: tells on standard output what becomes of lines.
        lines, size: how many lines, and bytes of them, are kept for a server that is away; then the oldest go.
    """

    def __init__(self, host: str, port: int, say: Say, lines: int = LINES, size: int = BYTES) -> None:
        self._host, self._port, self._say = host, port, say
        self._lines_limit, self._bytes_limit = lines, size
        self._begin()
        # The child of a fork has neither the thread nor a right to the connection, and its parent sends what waited.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._told = float("-inf")
        self._idle = False
        self._thread: threading.Thread | None = None
        self._closing: float | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # The thread's own.
        self._sent: deque[_Batch] = deque()
        self._end = 0
        self._away = False
        self._finished = False

    def put(self, line: bytes) -> None:
        """Have a line sent. Returns at once; drops the oldest lines if there is no room."""
        with self._lock:
            self._waiting.append(line)
            self._bytes += len(line)
            dropped = 0
            while len(self._waiting) > self._lines_limit or self._bytes > self._bytes_limit:
                self._bytes -= len(self._waiting.popleft())
                dropped += 1
            self._dropped += dropped
            tell = dropped and time.monotonic() - self._told > _TELL
            if tell:
                self._told = time.monotonic()
            so_far, wake, self._idle = self._dropped, self._idle, False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name=f"log-{self._port}")
                self._thread.start()
        if wake:
            os.eventfd_write(self._wake, 1)
        if tell:
            self._say("log lines are dropped", "error", dropped=so_far, server=self._server)

    def close(self, seconds: float) -> None:
        """Send what waits, for at most so many seconds, and say what could not be sent."""
        thread = self._thread
        if thread is None:
            return
        self._closing = time.monotonic() + seconds
        os.eventfd_write(self._wake, 1)
        thread.join(seconds + 0.2)
        with self._lock:
            left = self._dropped + len(self._waiting)
            if not self._finished:
                left += sum(len(batch.lines) for batch in list(self._sent) if not batch.confirmed)
        if left:
            self._say("log lines may not have arrived", "error", lines=left, server=self._server)

    @property
    def _server(self) -> str:
        return f"{self._host}:{self._port}"

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            begin = None
            try:
                with socket.create_connection((self._host, self._port), self._timeout(_CONNECT)) as connection:
                    begin = time.monotonic()
                    self._connected(connection)
                    self._serve(connection)
                    return
            except OSError as error:
                if self._closing is not None:
                    return
                self._keep_for_next()
                if begin is not None and time.monotonic() - begin > _STEADY:
                    pause = _FIRST_PAUSE
                self._lost(str(error) or type(error).__name__)
            self._rest(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _rest(self, pause: float) -> None:
        # Only `close` is a reason to try earlier: lines are kept without the thread.
        until = time.monotonic() + pause
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        while self._closing is None and (left := until - time.monotonic()) > 0:
            poller.poll(left * 1000)
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)

    def _timeout(self, seconds: float) -> float:
        return seconds if self._closing is None else max(0.01, min(seconds, self._closing - time.monotonic()))

    def _connected(self, connection: socket.socket) -> None:
        for option in _OPTIONS:
            connection.setsockopt(*option)
        # Where a port is published by a proxy, it answers for a server that is not there, and hangs up at once.
        connection.settimeout(self._timeout(_TRIAL))
        with suppress(TimeoutError):
            _listen(connection)
        connection.setblocking(False)
        self._end = 0
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            waiting = len(self._waiting)
        news = []
        if dropped:
            # Where the gap is: before all that was kept.
            news.append(self._say("log lines were dropped", "error", dropped=dropped, server=self._server))
        if self._away:
            news.append(self._say("log server is back", "info", lines=waiting, server=self._server))
        self._away = False
        self._put_first(news)

    def _lost(self, reason: str) -> None:
        if not self._away and self._closing is None:
            self._away = True
            self.put(self._say("log server is away", "warning", reason=reason, server=self._server))

    def _serve(self, connection: socket.socket) -> None:
        """Send what there is and what comes; returns when closed, raises `OSError` when the connection has ended."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(connection, select.POLLIN)
        while True:
            self._forget(connection)
            lines = self._take()
            if lines:
                self._send(connection, lines)
                continue
            if self._closing is not None:
                self._finish(connection)
                return
            for descriptor, _ in poller.poll(1000 if self._sent else None):
                if descriptor == connection.fileno():
                    _listen(connection)
                else:
                    os.eventfd_read(self._wake)
                    time.sleep(_GATHER)

    def _take(self) -> list[bytes]:
        """Return the next lines, a batch at most; without any, be woken by the next one."""
        lines: list[bytes] = []
        size = 0
        with self._lock:
            while self._waiting and size < _BATCH:
                lines.append(self._waiting.popleft())
                size += len(lines[-1])
            self._bytes -= size
            self._idle = not lines
        return lines

    def _send(self, connection: socket.socket, lines: list[bytes]) -> None:
        data = memoryview(b"".join(lines))
        self._end += len(data)
        self._sent.append(_Batch(self._end, lines, 0.0))
        poller = select.poll()
        poller.register(connection, select.POLLIN | select.POLLOUT)
        while data:
            for _, events in poller.poll(1000):
                if events & ~select.POLLOUT:
                    _listen(connection)
                if events & select.POLLOUT:
                    data = data[connection.send(data) :]
            if self._closing is not None and time.monotonic() > self._closing:
                raise TimeoutError("it did not take the last lines in time")

    def _forget(self, connection: socket.socket) -> None:
        """Let go of lines that the server has had long enough, and of the oldest if there are too many."""
        now = time.monotonic()
        unconfirmed = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        for index in range(len(self._sent) - 1, -1, -1):
            batch = self._sent[index]
            if batch.confirmed:
                break
            if batch.end <= self._end - unconfirmed:
                self._sent[index] = batch._replace(confirmed=now)
        while self._sent and self._sent[0].confirmed and now - self._sent[0].confirmed > _KEPT:
            self._sent.popleft()
        while self._sent and self._end - self._sent[0].end > self._bytes_limit:
            self._sent.popleft()

    def _keep_for_next(self) -> None:
        """Put what the broken connection may have swallowed before all that waits."""
        lines = [line for batch in self._sent for line in batch.lines]
        self._sent.clear()
        self._put_first(lines)

    def _put_first(self, lines: list[bytes]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(lines))
            self._bytes += sum(map(len, lines))

    def _finish(self, connection: socket.socket) -> None:
        """End the connection and wait until the server has ended it, too: it has read everything then."""
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(self._timeout(60.0))
        while connection.recv(4096):
            pass
        self._finished = True


def _listen(connection: socket.socket) -> None:
    # The server has nothing to say but that it ends.
    try:
        if not connection.recv(4096):
            raise ConnectionError("it closed the connection")
    except BlockingIOError:
        pass
