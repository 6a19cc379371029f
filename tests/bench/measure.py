"""Clocks and tables that the benchmarks share. Standard library only: a Flower app carries this file along."""

from __future__ import annotations

import inspect
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

MIB, GIB = 1024**2, 1024**3
_V1, _V2 = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage"), Path("/sys/fs/cgroup/cpu.stat")


class Mark(NamedTuple):
    """The state of the clocks at one moment.

    Attributes:
        seconds: wall clock.
        cpu: CPU-seconds of all processes of this container so far, ended ones included.
        own: CPU-seconds of this process.
        wire: bytes that went over the loopback interface, headers of every layer included.
        packets: of the same.
    """

    seconds: float
    cpu: float
    own: float
    wire: int
    packets: int

    @classmethod
    def now(cls) -> Mark:
        """Read the clocks."""
        wire, packets = next(
            (int(fields[9]), int(fields[10]))
            for fields in map(str.split, Path("/proc/net/dev").read_text().splitlines())
            if fields[0] == "lo:"
        )
        return cls(time.time(), _cpu(), time.process_time(), wire, packets)


class Turn(NamedTuple):
    """One run of several rounds: seconds of each round, and means over them."""

    seconds: list[float]
    cpu: float
    own: float
    wire: float
    packets: float

    @property
    def http(self) -> float:
        """Bytes that went through the sockets: the wire's without Ethernet, IPv4 and TCP (with time stamps)."""
        return self.wire - 66 * self.packets

    @classmethod
    def of(cls, marks: Sequence[Mark]) -> Turn:
        """Return the figures between `marks`, each of which ends a round; the first round does not count."""
        first, last, rounds = marks[0], marks[-1], len(marks) - 1
        return cls(
            [after.seconds - before.seconds for before, after in zip(marks, marks[1:], strict=False)],
            *((getattr(last, name) - getattr(first, name)) / rounds for name in Mark._fields[1:]),
        )


class Spans:
    """Seconds spent in chosen functions, by name; those of several threads are added."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def watch(self, owner: Any, name: str) -> None:
        """Take the time of `owner.name` from now on."""
        function = getattr(owner, name)
        label = f"{owner.__name__.rpartition('.')[2]}.{name}"
        self.seconds[label] = 0.0

        @contextmanager
        def clock() -> Iterator[None]:
            begin = time.perf_counter()
            try:
                yield
            finally:
                with self._lock:
                    self.seconds[label] += time.perf_counter() - begin

        def timed(*args: Any, **options: Any) -> Any:
            with clock():
                return function(*args, **options)

        def timed_steps(*args: Any, **options: Any) -> Any:
            steps = function(*args, **options)
            while True:
                with clock():
                    step = next(steps, self)
                if step is self:
                    return
                yield step

        setattr(owner, name, timed_steps if inspect.isgeneratorfunction(function) else timed)


def median(turns: Sequence[Turn]) -> Turn:
    """Return medians: of all rounds for the seconds, of all turns for the rest."""
    return Turn(
        [statistics.median(each for turn in turns for each in turn.seconds)],
        *(statistics.median(getattr(turn, name) for turn in turns) for name in Mark._fields[1:]),
    )


def memory(pid: int) -> dict[str, float]:
    """Return MiB of a process: resident, of these its own (not mapped from files), and the highest so far."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = {"resident": "VmRSS", "own": "RssAnon", "highest": "VmHWM"}
    return {name: int(lines[field].split()[0]) / 1024 for name, field in names.items()}


def available() -> int:
    """Return bytes of memory that this machine can still give."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Return as soon as `ready` does not raise OSError and is true; end the program if that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{what} did not happen within {seconds:.0f} s.")


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below their heads, numbers with three figures."""
    lines = [list(head), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}" if abs(cell) < 1 else f"{cell:.2f}"
    return str(cell)


def _cpu() -> float:
    if _V1.exists():
        return int(_V1.read_text()) / 1e9
    return int(_V2.read_text().split()[1]) / 1e6
