"""The two sides of the broker, in the tests' process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rabbit import Rabbit

from synergos.queue import Completed, Job, JobConsumer, Lost, Progress, Publisher

Answer = Completed | Progress | Lost


class Heard:
    """What came back, in order; `wait` until so many answers have come."""

    def __init__(self) -> None:
        self.items: list[Answer] = []
        self._changed = threading.Condition()

    def take(self, item: Answer) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def completed(self) -> list[Completed]:
        return [item for item in self.items if isinstance(item, Completed)]

    def lost(self) -> list[Lost]:
        return [item for item in self.items if isinstance(item, Lost)]

    def wait(self, ready: Callable[[], bool], seconds: float = 30) -> None:
        with self._changed:
            assert self._changed.wait_for(ready, seconds), self.items


class Grids:
    """TTPs in this process."""

    def __init__(self, rabbit: Rabbit) -> None:
        self.rabbit = rabbit
        self.closing: list[Any] = []

    def add(self, work: Callable[[Job], dict[str, Any]], grid: int = 0) -> JobConsumer:
        address, name = self.rabbit.address("ttp"), f"ttp_{grid}"
        publisher = Publisher(address, name)
        publisher.start()
        consumer = JobConsumer(address, name, grid, publisher, work)
        consumer.start()
        self.closing += [consumer, publisher]
        return consumer


def eventually(ready: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.05)


def resident() -> int:
    """Return the memory that this process uses, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
