"""A log server for tests: GELF over TCP, kept as it is read. `python receiver.py PORT FILE` is one to be killed."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]


class Receiver:
    """A server in threads of this process, on a port of loopback that stays its own.

    Attributes:
        messages: what has arrived, in order; complete messages only.
        reading: cleared, the server goes on taking connections but reads nothing.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reading = threading.Event()
        self.reading.set()
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])

    def start(self, cut_after: int | None = None) -> None:
        """Listen. With `cut_after`, the first connection is broken when so many bytes of it were read."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener, cut_after), daemon=True).start()

    def stop(self) -> None:
        """Vanish, as a server does whose process dies: what was not read is lost."""
        assert self._listener
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        self._open.clear()

    def ids(self) -> list[str]:
        """Return the ids of all lines, in the order of their first arrival."""
        return list(dict.fromkeys(message["_line_id"] for message in list(self.messages)))

    def of(self, event: str) -> list[Message]:
        """Return the lines of an event, each once."""
        found = {message["_line_id"]: message for message in list(self.messages) if message["_event"] == event}
        return list(found.values())

    def _accept(self, listener: socket.socket, cut_after: int | None) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection, cut_after), daemon=True).start()
            cut_after = None

    def _read(self, connection: socket.socket, cut_after: int | None) -> None:
        rest, count = b"", 0
        while True:
            self.reading.wait()
            try:
                data = connection.recv(min(65536, cut_after - count) if cut_after else 65536)
            except OSError:
                return
            if not data:
                connection.close()
                return
            count += len(data)
            *complete, rest = (rest + data).split(b"\0")
            self.messages += [json.loads(each) for each in complete]
            if cut_after and count >= cut_after:
                self.stop()
                return


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is true; fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def main() -> None:
    """Append the ids of the lines of one connection after the other to a file, until killed."""
    port, file = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, rest = listener.accept()[0], b""
            while data := connection.recv(4096):
                *complete, rest = (rest + data).split(b"\0")
                os.write(file, b"".join(json.loads(each)["_line_id"].encode() + b"\n" for each in complete))
            connection.close()


if __name__ == "__main__":
    main()
