"""What a container uses: from the control groups of the one that this runs in, and from files as kernels write them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from synergos.logs.usage import Groups, Usage


def test_cpu_time_is_that_of_this_container() -> None:
    usage = Usage(Groups())
    begin = time.monotonic()
    # Children, one after the other and ended when the figures are read.
    burn = "import time\nwhile time.process_time() < 0.7: pass"
    before = os.times()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", burn], check=True)
    spent = os.times().children_user + os.times().children_system - before.children_user - before.children_system
    seconds = time.monotonic() - begin
    figures = usage.figures()
    expected = 100 * spent / (seconds * len(os.sched_getaffinity(0)))
    assert figures["cpu_percent"] == pytest.approx(expected, rel=0.2)
    assert 0 < figures["cpu_percent"] <= 105
    assert isinstance(figures["cpu_percent"], float) and isinstance(figures["cpu_count"], float)


def test_memory_is_that_of_this_container() -> None:
    groups = Groups()
    before = groups.memory()
    held = bytearray(os.urandom(1)) * (200 * 2**20)
    after = groups.memory()
    assert 190 * 2**20 < after["memory_used"] - before["memory_used"] < 230 * 2**20
    del held
    assert after["memory_total"] <= psutil.virtual_memory().total
    assert after["memory_used"] < after["memory_total"] - after["memory_available"] + 2**20
    assert 0 < after["memory_free"] <= after["memory_available"]


def test_all_figures_of_the_contract_are_there() -> None:
    names = {f"memory_{name}" for name in ("total", "available", "used", "free")}
    names |= {f"disk_{way}_{what}" for way in ("read", "write") for what in ("counter", "bytes")}
    names |= {f"net_{what}" for what in ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")}
    assert names < Usage(Groups()).figures().keys()


def tree(folder: Path, files: dict[str, str], cgroup: str, mounts: str) -> Groups:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mounts.replace("@", str(folder / "fs")))
    return Groups(folder)


MEMORY = {
    "memory_total": 200_000_000,
    "memory_available": 100_000_000,
    "memory_used": 100_000_000,
    "memory_free": 70_000_000,
}
MEMORY_STAT = "anon 1000\nfile 5000\ninactive_file 30000000\nactive_file 2000\n"
V2 = {
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
    "cpu.max": "50000 100000\n",
    "memory.current": "130000000\n",
    "memory.max": "200000000\n",
    "memory.stat": MEMORY_STAT,
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:1 rbytes=1 wbytes=2 rios=3 wios=4\n",
}
V2_MOUNT = "700 699 0:26 {root} @ ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [("/", "/", ""), ("/docker/ab", "/", "docker/ab/"), ("/docker/ab", "/docker/ab", ""), ("/other", "/docker/ab", "")],
    ids=["own namespace", "namespace of the host", "bound", "elsewhere"],
)
def test_control_groups_of_version_2(tmp_path: Path, path: str, root: str, below: str) -> None:
    files = {f"fs/{below}{name}": content for name, content in V2.items()}
    groups = tree(tmp_path, files, f"0::{path}\n", V2_MOUNT.format(root=root))
    assert groups.cpu_seconds() == 2.5
    assert groups.cpus() == 0.5
    assert groups.memory() == MEMORY
    assert groups.disk() == {
        "disk_read_bytes": 4097,
        "disk_write_bytes": 8194,
        "disk_read_counter": 4,
        "disk_write_counter": 6,
    }


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    usage_of = "8:0 Read {0}\n8:0 Write {1}\n8:0 Sync 9\n8:0 Total 99\nTotal 99\n".format
    files = {
        "fs/cpuacct/cpuacct.usage": "2500000000\n",
        "fs/cpu/cpu.cfs_quota_us": "-1\n",
        "fs/cpu/cpu.cfs_period_us": "100000\n",
        "fs/memory/memory.usage_in_bytes": "130000000\n",
        "fs/memory/memory.stat": "cache 1\nhierarchical_memory_limit 200000000\ntotal_inactive_file 30000000\n",
        "fs/blkio/blkio.throttle.io_service_bytes": usage_of(4096, 8192),
        "fs/blkio/blkio.throttle.io_serviced": usage_of(1, 2),
    }
    names = ("cpuacct", "cpu", "memory", "blkio")
    cgroup = "".join(f"{number}:{name}:/docker/ab\n" for number, name in enumerate(names, 1)) + "0::/\n"
    mounts = "".join(f"234 233 0:29 /docker/ab @/{name} ro,nosuid - cgroup cgroup rw,{name}\n" for name in names)
    groups = tree(tmp_path, files, cgroup, mounts)
    assert groups.cpu_seconds() == 2.5
    assert groups.cpus() == len(os.sched_getaffinity(0))
    assert groups.memory() == MEMORY
    assert groups.disk() == {
        "disk_read_bytes": 4096,
        "disk_write_bytes": 8192,
        "disk_read_counter": 1,
        "disk_write_counter": 2,
    }


def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path) -> None:
    files = {f"fs/{name}": content for name, content in V2.items() if name not in ("cpu.max", "io.stat")}
    files["fs/memory.max"] = "max\n"
    groups = tree(tmp_path, files, "0::/\n", V2_MOUNT.format(root="/"))
    assert groups.memory()["memory_total"] == psutil.virtual_memory().total
    assert groups.disk() == {}, "no controller: nothing is invented"


def test_without_control_groups_the_process_has_the_machine(tmp_path: Path) -> None:
    groups = tree(tmp_path, {}, "", "")
    assert groups.memory()["memory_total"] == psutil.virtual_memory().total
    assert Usage(groups).figures()["cpu_percent"] >= 0
