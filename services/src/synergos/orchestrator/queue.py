"""One job at a time on a grid."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from synergos.errors import Busy

T = TypeVar("T")


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold the grid against every other process; raises `Busy` if one holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("The grid is at work on a job or being reset: try again when that has ended.") from None
        yield


class JobQueue:
    """Runs jobs in the order of their arrival, outside the event loop, one at a time.

    Args:
        lock: file that is locked while a job runs.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._turn = anyio.CapacityLimiter(1)

    async def run(self, job: Callable[[], T]) -> T:
        """Wait for the turn, then return what `job` returns or raise what it raises."""

        def work() -> T:
            with exclusive(self._lock):
                return job()

        # Waiting for the turn takes no thread, so other requests are answered however many jobs wait. Only the end
        # of the process cancels a job, and it must not wait for the thread then.
        return await anyio.to_thread.run_sync(work, limiter=self._turn, abandon_on_cancel=True)
