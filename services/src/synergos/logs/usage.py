"""What the container of this process uses of its machine: read from its control groups, version 1 or 2.

Where a figure cannot be had (a kernel without the controller), it is left out. Without any control group of its own
the process is taken for the whole machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

Figures = dict[str, int | float]


class Groups:
    """The control groups of this process.

    Args:
        proc: where the kernel tells about this process.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        paths = {}
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
        self._folders: dict[str, Path] = {}
        for line in (proc / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, point = before.split()[3:5]
            kind, _, options = after.split()[:3]
            names = {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, [])
            for name in names:
                if name in paths:
                    self._folders[name] = _below(Path(point), root, paths[name])

    def cpu_seconds(self) -> float | None:
        """CPU-seconds of all processes so far, ended ones included."""
        if (text := self._read("cpuacct", "cpuacct.usage")) is not None:
            return int(text) / 1e9
        found = self._table("", "cpu.stat").get("usage_usec")
        return None if found is None else found / 1e6

    def cpus(self) -> float:
        """How many CPUs they may use together."""
        quota = period = -1
        if (text := self._read("", "cpu.max")) is not None:
            first, second = text.split()
            quota, period = (-1 if first == "max" else int(first)), int(second)
        elif (text := self._read("cpu", "cpu.cfs_quota_us")) is not None:
            quota, period = int(text), int(self._read("cpu", "cpu.cfs_period_us") or -1)
        allowed = float(len(os.sched_getaffinity(0)))
        return min(allowed, quota / period) if quota > 0 and period > 0 else allowed

    def memory(self) -> Figures:
        """Bytes: what there is at most, what is used, and what is left without and with the page cache given back."""
        machine = psutil.virtual_memory()
        if (text := self._read("memory", "memory.usage_in_bytes")) is not None:
            charged, limit = int(text), self._table("memory", "memory.stat").get("hierarchical_memory_limit", 0)
            cache = self._table("memory", "memory.stat").get("total_inactive_file", 0)
        elif (text := self._read("", "memory.current")) is not None:
            charged, limit = int(text), 0
            if (highest := self._read("", "memory.max")) not in (None, "max"):
                limit = int(highest)
            cache = self._table("", "memory.stat").get("inactive_file", 0)
        else:
            return {f"memory_{name}": getattr(machine, name) for name in ("total", "available", "used", "free")}
        total = min(limit or machine.total, machine.total)
        used = max(0, charged - cache)
        return {
            "memory_total": total,
            "memory_available": max(0, min(total - used, machine.available)),
            "memory_used": used,
            "memory_free": max(0, min(total - charged, machine.free)),
        }

    def disk(self) -> Figures:
        """Operations and bytes on block devices so far."""
        figures: Figures = {}
        if (text := self._first("blkio", "io_service_bytes")) is not None:
            figures = dict(zip(("disk_read_bytes", "disk_write_bytes"), _blkio(text), strict=True))
            operations = self._first("blkio", "io_serviced")
            if operations is not None:
                figures |= dict(zip(("disk_read_counter", "disk_write_counter"), _blkio(operations), strict=True))
        elif (text := self._read("", "io.stat")) is not None:
            sums = {"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}
            for name, value in _pairs(text):
                if name in sums:
                    sums[name] += value
            names = ("disk_read_bytes", "disk_write_bytes", "disk_read_counter", "disk_write_counter")
            figures = dict(zip(names, sums.values(), strict=True))
        return figures

    def _first(self, controller: str, what: str) -> str | None:
        recursive = self._read(controller, f"blkio.throttle.{what}_recursive")
        return recursive if recursive is not None else self._read(controller, f"blkio.throttle.{what}")

    def _read(self, controller: str, name: str) -> str | None:
        folder = self._folders.get(controller)
        try:
            return (folder / name).read_text().strip() if folder else None
        except OSError:
            return None

    def _table(self, controller: str, name: str) -> dict[str, int]:
        lines = (self._read(controller, name) or "").splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}


class Usage:
    """Figures of the container from one call to the next."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._before = self._clocks()

    def figures(self) -> Figures:
        """Return the figures of now; `cpu_percent` is the mean since the last call, 100 if all allowed CPUs worked."""
        before, self._before = self._before, self._clocks()
        seconds, cpu = (now - then for now, then in zip(self._before, before, strict=True))
        cpus = self._groups.cpus()
        percent = round(100 * cpu / (seconds * cpus), 2) if seconds > 0 else 0.0
        return {
            "cpu_percent": percent,
            "cpu_count": float(cpus),
            **self._groups.memory(),
            **self._groups.disk(),
            **_network(),
        }

    def _clocks(self) -> tuple[float, float]:
        used = self._groups.cpu_seconds()
        if used is None:
            times = psutil.cpu_times()
            used = sum(times) - times.idle - times.iowait
        return time.monotonic(), used


def _network() -> Figures:
    """Count what went over the network interfaces of the container, its loopback left out."""
    cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    return {
        f"net_{name}": sum(getattr(card, name) for card in cards)
        for name in ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")
    }


def _below(point: Path, root: str, path: str) -> Path:
    """Return the folder of a group: the mount shows `root` at `point`, which may be the group itself."""
    inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
    folder = point / inside.lstrip("/")
    # Inside a container the path may be the host's, which is not to be seen there.
    return folder if folder.is_dir() else point


def _blkio(text: str) -> tuple[int, int]:
    lines = [line.split() for line in text.splitlines()]
    counts = [(line[1], int(line[2])) for line in lines if len(line) == 3]
    return sum(n for kind, n in counts if kind == "Read"), sum(n for kind, n in counts if kind == "Write")


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for word in text.split():
        name, equals, value = word.partition("=")
        if equals and value.isdigit():
            yield name, int(value)
