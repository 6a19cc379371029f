"""Jobs on the grids of a cluster: runs by number of grids, requests meanwhile, a thousand jobs; the last line is JSON.

`python throughput.py [--only grids sharing many] [--runs 12] [--repeats 3] [--delay 40] [--jobs 1000]`. Broker,
Director, TTPs and workers are real processes on loopback addresses; what they store lies on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from measure import MIB, memory, table

TESTS = Path(__file__).resolve().parents[2] / "services" / "tests"
sys.path[:0] = [str(TESTS / "director"), str(TESTS / "queue")]

from cluster import PARTICIPANTS, Cluster, Keys, ok  # noqa: E402
from rabbit import Rabbit  # noqa: E402

GRIDS = 3
# Keeps the processors busy all the time; hardly does, but every message is late; next to nothing.
COMPUTING, WAITING, TINY = {"rounds": 20, "epochs": 4}, {"rounds": 10, "epochs": 1}, {"rounds": 1, "epochs": 1}
PORTS = (5000, 8020)
PARTS = ("grids", "sharing", "many")
Found = dict[str, Any]


class Bench(Cluster):
    """A cluster, and the time that its answers take.

    Attributes:
        late: whether the workers of projects that are registered now answer late.
        taken: milliseconds that answers took, by kind of request.
    """

    def __init__(self, root: Path, rabbit: Rabbit) -> None:
        super().__init__(root, rabbit, GRIDS)
        self.late = False
        self.taken: dict[str, list[float]] = defaultdict(list)

    def host(self, name: str) -> str:
        """Return where the TTPs are to find a worker."""
        return late(self.addresses[name]) if self.late else self.addresses[name]

    def serve(self, grids: int) -> None:
        """Have the first grids at work and no others, all of them warm."""
        names = [f"sync_ttp_{grid}" for grid in range(1, GRIDS + 1)]
        self.kill(*(name for name in names[grids:] if name in self.processes))
        if not set(names[:grids]) <= self.processes.keys():
            self.start(*self._missing(grids))
            keys = self.prepare(f"warm {time.time_ns()}", 4 * grids, TINY)
            self.ended(keys, self.order(keys, 4 * grids))

    def _missing(self, grids: int) -> Iterator[str]:
        for grid in range(1, grids + 1):
            for name in (*(f"{name}_n{grid}" for name in PARTICIPANTS), f"sync_ttp_{grid}"):
                if name not in self.processes:
                    yield name

    def prepare(self, collab: str, runs: int, parameters: Found) -> Keys:
        """Register and align a project."""
        keys = self.describe(collab, runs=runs, **parameters)
        self.align(keys)
        return keys

    def order(self, keys: Keys, runs: int) -> int:
        """Order runs, each as a job of its own, and return how many."""
        for number in range(1, runs + 1):
            with self.clock("POST a model"):
                ok(self.driver.models.create(*keys, f"run_{number}"))
        return runs

    def ended(self, keys: Keys, count: int, pause: float = 0.2) -> list[Found]:
        """Wait until the newest trainings of a project have ended, asking as people do; return the jobs."""
        pending = True
        while pending:
            time.sleep(pause)
            with self.clock("GET all jobs"):
                jobs: list[Found] = ok(self.driver.jobs.read_all(collab_id=keys[0], process="train"))[-count:]
            with self.clock("GET a job"):
                ok(self.driver.jobs.read(jobs[-1]["job_id"]))
            with self.clock("GET a run"):
                ok(self.driver.runs.read(*keys, "run_1"))
            pending = any(job["state"] in ("queued", "running") for job in jobs)
        if failed := [job for job in jobs if job["state"] != "done"]:
            raise SystemExit(f"Of {count} jobs {len(failed)} failed, the first because: {failed[0].get('reason')}")
        return jobs

    @contextmanager
    def clock(self, kind: str) -> Iterator[None]:
        """Take the time of a request."""
        begin = time.perf_counter()
        yield
        self.taken[kind].append(1000 * (time.perf_counter() - begin))

    def latencies(self, title: str) -> dict[str, dict[str, float]]:
        """Print and return milliseconds of the requests since the last call."""
        found = {
            kind: {
                "median": statistics.median(each),
                "p95": statistics.quantiles(each, n=20, method="inclusive")[-1],
                "max": max(each),
                "count": len(each),
            }
            for kind, each in self.taken.items()
            if len(each) > 1
        }
        self.taken.clear()
        head = ["median", "p95", "max", "count"]
        table(f"{title} (ms)", ["", *head], ([kind, *(of[name] for name in head)] for kind, of in found.items()))
        return found

    def begun(self, collab: str) -> Counter[str]:
        """Count how often each run of a collaboration was begun."""
        return Counter(event["run_id"] for event in self.events("training begins") if event["collab_id"] == collab)

    def pids(self) -> dict[str, int]:
        """Return one process of each kind."""
        [node] = self.rabbit.api("GET", "nodes")
        names = {"Director": "sync_director", "TTP": "sync_ttp_1", "worker": "worker_1_n1"}
        return {**{kind: self.processes[name].pid for kind, name in names.items()}, "broker": int(node["os_pid"])}

    def sizes(self) -> dict[str, float]:
        """Return MiB in memory and on disk."""
        director = self.root / "sync_director"
        return {
            **{kind: memory(pid)["resident"] for kind, pid in self.pids().items()},
            "database": sum(path.stat().st_size for path in (director / "data").glob("database.db*")) / MIB,
            "outputs": _size(director / "outputs") / MIB,
            "outputs at a TTP": _size(self.root / "sync_ttp_1" / "outputs") / MIB,
        }

    def cpu(self) -> Counter[str]:
        """Return CPU milliseconds that processes have used so far."""
        stats = {
            kind: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for kind, pid in self.pids().items()
        }
        tick = 1000 / os.sysconf("SC_CLK_TCK")
        return Counter({kind: tick * (int(of[11]) + int(of[12])) for kind, of in stats.items()})

    def rows(self) -> dict[str, int]:
        """Return the number of rows of each table of the Director."""
        with sqlite3.connect(f"file:{self.root}/sync_director/data/database.db?mode=ro", uri=True) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def grids(bench: Bench, options: argparse.Namespace) -> Found:
    """Measure runs ordered at once by number of grids."""
    bench.serve(2)
    bench.taken.clear()
    keys = {}
    for name, parameters in (("computing", COMPUTING), ("waiting", WAITING)):
        bench.late = name == "waiting"
        keys[name] = bench.prepare(name, options.runs, parameters)
    bench.late = False
    seconds: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in keys}
    ttps: dict[int, set[str]] = defaultdict(set)
    for count in (2, 1) * options.repeats + (3,) * options.repeats:
        bench.serve(count)
        for name in keys:
            # So that nobody prepares data in the measured time.
            bench.ended(keys[name], bench.order(keys[name], min(2 * count, options.runs)))
            before = bench.begun(name)
            jobs = bench.ended(keys[name], bench.order(keys[name], options.runs))
            seconds[name][count].append(span(jobs))
            if set((bench.begun(name) - before).values()) != {1} or len(bench.begun(name)) != options.runs:
                raise SystemExit(f"Not each run was done once: {bench.begun(name) - before}")
            parts = [
                part
                for job in bench.jobs(collab_id=name, process="train")[-options.runs :]
                for part in job["progress"]["parts"]
            ]
            ttps[count] |= {part["ttp"] for part in parts}
    if any(len(names) != count for count, names in ttps.items()):
        raise SystemExit(f"Not all grids were used: {ttps}")
    medians = {name: {n: statistics.median(each) for n, each in found.items()} for name, found in seconds.items()}
    table(
        f"{options.runs} runs ordered at once (seconds, medians of {options.repeats}; x: of one grid's speed)",
        ["", "one grid", "two grids", "x", "three grids", "x"],
        ([name, of[1], of[2], of[1] / of[2], of[3], of[1] / of[3]] for name, of in medians.items()),
    )
    return {"seconds": seconds, "answers": bench.latencies("Answers while the grids work")}


def sharing(bench: Bench, _: argparse.Namespace) -> Found:
    """Measure how long a collaboration waits that comes just after another one with many runs."""
    bench.serve(2)
    many, few = (bench.prepare(name, runs, COMPUTING) for name, runs in (("many", 50), ("few", 2)))
    bench.order(many, 50)
    bench.order(few, 2)
    found = {"few": span(bench.ended(few, 2)), "many": span(bench.ended(many, 50))}
    print(f"\n2 runs, ordered just after another collaboration's 50: done after {found['few']:.1f} s,")
    print(f"the 50 after {found['many']:.1f} s.")
    return {**found, "answers": bench.latencies("Answers meanwhile")}


def many(bench: Bench, options: argparse.Namespace) -> Found:
    """Measure a thousand jobs, twice."""
    bench.serve(2)
    keys = bench.prepare("thousand", options.jobs, TINY)
    bench.taken.clear()
    sizes = {"before": bench.sizes()}
    found: Found = {}
    for turn in ("first", "second"):
        before = bench.cpu()
        bench.order(keys, options.jobs)
        sizes[f"{turn}, ordered"] = bench.sizes()
        jobs = bench.ended(keys, options.jobs, 1.0)
        sizes[f"{turn}, done"] = bench.sizes()
        found[turn] = {
            "jobs per second": options.jobs / span(jobs),
            "waited when all were ordered": sum(at(job, "started_at") > at(jobs[-1], "created_at") for job in jobs),
            "CPU ms per job": {kind: used / options.jobs for kind, used in (bench.cpu() - before).items()},
            "rows": bench.rows(),
            "answers": bench.latencies(f"Answers, {turn} time"),
        }
    names = list(sizes["before"])
    table(
        f"Twice {options.jobs} jobs (MiB)",
        ["", *names],
        ([when, *(of[name] for name in names)] for when, of in sizes.items()),
    )
    for turn, of in found.items():
        print(f"\n{turn} time: { ({name: value for name, value in of.items() if name != 'answers'}) }")
    return {**found, "MiB": sizes}


def at(job: Found, name: str) -> float:
    """Return a time of a job in seconds."""
    return datetime.fromisoformat(job[name]).timestamp()


def span(jobs: list[Found]) -> float:
    """Return the seconds from the first order to the last end."""
    return max(at(job, "ended_at") for job in jobs) - min(at(job, "created_at") for job in jobs)


def late(address: str) -> str:
    """Return where a worker answers late."""
    first, _, last = address.rpartition(".")
    return f"{first}.{int(last) + 100}"


def relay(seconds: float, addresses: list[str]) -> None:
    """Pass on what goes between TTPs and workers, all of it so many seconds late each way. Never returns."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            piece = b"first"
            while piece:
                try:
                    piece = await reader.read(65536)
                except OSError:
                    piece = b""
                pieces.put_nowait((clock() + seconds, piece))

        reading = asyncio.create_task(read())
        while (item := await pieces.get())[1]:
            await asyncio.sleep(item[0] - clock())
            writer.write(item[1])
        writer.close()
        await reading

    async def serve() -> None:
        for address in addresses:
            for port in PORTS:

                async def meet(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str = address, port: int = port
                ) -> None:
                    far_reader, far_writer = await asyncio.open_connection(address, port)
                    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

                await asyncio.start_server(meet, late(address), port)
        await asyncio.Event().wait()

    asyncio.run(serve())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def running(delay: float) -> Iterator[Bench]:
    """Start a Director and a broker, and end afterwards what was started."""
    rabbit = Rabbit()
    bench = Bench(Path(tempfile.mkdtemp(prefix="bench-")), rabbit)
    workers = [address for name, address in bench.addresses.items() if name.startswith("worker")]
    process = multiprocessing.Process(target=relay, args=(delay / 1000, workers), daemon=True)
    try:
        rabbit.start()
        process.start()
        bench.start("sync_director")
        yield bench
    except BaseException:
        print(bench.complaints(), file=sys.stderr)
        raise
    finally:
        bench.stop()
        process.kill()
        rabbit.kill()
        for folder in (rabbit.folder, bench.root):
            shutil.rmtree(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=12, help="ordered at once, by number of grids")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--delay", type=float, default=40, help="milliseconds each way, where work waits")
    parser.add_argument("--jobs", type=int, default=1000)
    options = parser.parse_args()
    # Not in memory, as a container's /tmp is.
    tempfile.tempdir = "/var/tmp"
    found = {}
    with running(options.delay) as bench:
        for part in options.only:
            found[part] = {"grids": grids, "sharing": sharing, "many": many}[part](bench, options)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
