"""Run the HTTP servers of one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from synergos import logs
from synergos.logs import get_logger

GRACE = 3


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Several servers share the process: `serve` takes the signals for all of them.
        yield


def serve(
    apps: Sequence[tuple[ASGIApp, int]],
    host: str = "0.0.0.0",
    started: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Serve each application on its port until SIGTERM or SIGINT, then end the process.

    Running requests get a few seconds to finish. The exit code is 0 after a signal, and 1 if a port is taken or an
    application does not start. Threads that still work (a training) are left behind: what they store is atomic.

    Args:
        apps: applications with their ports.
        started: called in a thread of its own once all ports answer, for work that must not delay them.
        stopping: called on the signal, before running requests are waited for.
    """
    log = get_logger("server")
    try:
        sockets = [_listen(host, port) for _, port in apps]
    except OSError as error:
        log.error("cannot listen", reason=str(error))
        _exit(1)
    servers = [
        _Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=GRACE
            )
        )
        for app, _ in apps
    ]
    signalled = asyncio.run(_run(servers, sockets, started, stopping))
    log.info("stopped" if signalled else "did not start")
    _exit(0 if signalled else 1)


async def _run(
    servers: Sequence[_Server],
    sockets: Sequence[socket.socket],
    started: Callable[[], None],
    stopping: Callable[[], None],
) -> bool:
    signalled = False

    def end() -> None:
        for server in servers:
            server.should_exit = True

    def stop() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            threading.Thread(target=stopping, daemon=True, name="stopping").start()
        end()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as tasks:
        for server, listener in zip(servers, sockets, strict=True):
            task = tasks.create_task(server.serve([listener]))
            # One server that ends (its application failed to start) takes the others along.
            task.add_done_callback(lambda _: end())
        while not all(server.started or server.should_exit for server in servers):
            await asyncio.sleep(0.01)
        if not any(server.should_exit for server in servers):
            get_logger("server").info("started", ports=[listener.getsockname()[1] for listener in sockets])
            threading.Thread(target=started, daemon=True, name="started").start()
    return signalled


def _listen(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named; left on, every answer over a kept
    # connection waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(f"port {port} of {host}: {error.strerror}") from error
    return listener


def _exit(code: int) -> NoReturn:
    logs.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
