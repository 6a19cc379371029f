"""The grid of the fault tests: its REST API as a client sees it, its containers, and what can befall them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dataset
import docker
import requests
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "faults"
GRID = "synergos_faults"
TTP = "synf_ttp"
WORKERS = {"worker_1": "synf_worker_1", "worker_2": "synf_worker_2", "worker_3": "synf_worker_3"}
OFFSET = 20000
# Components whose outputs lie on a small file system of their own.
DISKS = (TTP, "synf_worker_1")
DISK_SIZE = "192m"
COLLAB, EXPT = "ward", "net"
PATIENCE = 90.0

T = TypeVar("T")


class Refused(Exception):
    """An answer of the TTP that is an error, with its status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


def wait_for(what: str, ask: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Return the first truthy answer of `ask`; connections that fail meanwhile count as no answer."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(requests.RequestException):
            if answer := ask():
                return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


@dataclass
class Work:
    """A request that the grid works on, and how to tell what came out.

    Attributes:
        path: of the POST, below /ttp.
        process: what its job record calls it.
        ids: what else identifies its job record, beside the time.
        reached: whether the worker that will be struck is in the middle of it.
        figures: what it ended with, comparable between undisturbed and disturbed.
    """

    path: str
    process: str
    ids: dict[str, str]
    reached: Callable[[Job], bool]
    figures: Callable[[], Any]


class Job:
    """A POST under way, seen through its own answer and through its job record."""

    def __init__(self, grid: Grid, work: Work) -> None:
        self.work, self.began = work, time.monotonic()
        self._grid = grid
        before = {record["job_id"] for record in self._known()}
        self._pool = ThreadPoolExecutor(1)
        self.answer: Future[Any] = self._pool.submit(grid.call, "POST", work.path, {})
        self._pool.shutdown(wait=False)
        self.job_id: str = wait_for(
            f"a job record of {work.path}",
            lambda: next((job["job_id"] for job in self._known() if job["job_id"] not in before), None),
            seconds=10,
        )

    def _known(self) -> list[dict[str, Any]]:
        return [record for record in self._grid.jobs(**self.work.ids) if record["process"] == self.work.process]

    @property
    def record(self) -> dict[str, Any]:
        """The job as the TTP tells it."""
        return self._grid.call("GET", f"jobs/{self.job_id}")  # type: ignore[no-any-return]

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds that it has finished so far."""
        progress = self.record.get("progress") or {}
        return progress.get("rounds") or []

    def ended(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """Return the job record once the job has ended."""

        def look() -> dict[str, Any] | None:
            record = self.record
            return record if record["state"] not in ("queued", "running") else None

        return wait_for(f"the end of {self.work.path}", look, seconds)

    def reply(self) -> Refused | None:
        """Return the error that the POST itself was answered with, if it was."""
        error = self.answer.exception(timeout=PATIENCE)
        if error is not None and not isinstance(error, Refused):
            raise error
        return error


class Grid:
    """The grid that `inventory.yml` describes. Projects share the collaboration `ward`."""

    def __init__(self) -> None:
        self.docker = docker.from_env()
        self.engine = docker.APIClient()

    # --- what a client sees -------------------------------------------------------------------------------------

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        """Return the `data` of an answer of the TTP; raises `Refused`."""
        url = f"http://127.0.0.1:{OFFSET + 5000}/ttp/{path}"
        answer = requests.request(verb, url, json=body, timeout=(2, 300))
        reply = answer.json()
        if not answer.ok:
            raise Refused(answer.status_code, reply["message"])
        return reply["data"]

    def jobs(self, **ids: str) -> list[dict[str, Any]]:
        """Return the job records that match."""
        query = "&".join(f"{key}={value}" for key, value in ids.items())
        return self.call("GET", f"jobs?{query}")  # type: ignore[no-any-return]

    def health(self, name: str) -> dict[str, Any]:
        """Return what a container's REST port says of itself."""
        port = OFFSET + (5000 if name == TTP else 5000 + int(name[-1]))
        answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    def idle(self, *participants: str) -> None:
        """Wait until the workers hold nothing open any more."""
        for participant in participants or WORKERS:
            name = WORKERS[participant]
            wait_for(f"{participant} is free", lambda name=name: _free(self.health(name)), seconds=30)

    def project(self, project_id: str) -> None:
        """Create a project with all participants and one experiment."""
        with contextlib.suppress(Refused):
            self.call("POST", "connect/collaborations", {"collab_id": COLLAB})
        path = f"connect/collaborations/{COLLAB}/projects"
        self.call("POST", path, {"project_id": project_id, "action": "classify", "incentives": {}})
        self.call("POST", f"{path}/{project_id}/experiments", {"expt_id": EXPT, "model": dataset.MODEL})
        for number, participant in enumerate(WORKERS, start=1):
            with contextlib.suppress(Refused):
                self.call("POST", "connect/participants", {"id": participant})
            seat = f"{path}/{project_id}/participants/{participant}/registration"
            node = {"host": f"172.28.201.{number + 2}", "port": 8020, "f_port": 5000}
            self.call("POST", seat, {"role": "guest", "n_count": 1, "node_0": node})
            tags = {meta: [[dataset.NAME, "dataset", f"data{number}", meta]] for meta in ("train", "evaluate")}
            self.call("POST", f"{seat}/tags", {**tags, "predict": []})

    def run(self, project_id: str, run_id: str, **parameters: Any) -> None:
        """Create a run; `parameters` beside those that all runs here share."""
        shared = {"algorithm": "FedAvg", "epochs": 1, "batch_size": 64, "lr": 0.05, "optimizer": "SGD"}
        shared |= {"criterion": "BCELoss", "lr_scheduler": "StepLR", "step_size": 1, "gamma": 0.98, "grace": 30}
        path = f"connect/collaborations/{COLLAB}/projects/{project_id}/experiments/{EXPT}/runs"
        self.call("POST", path, {"run_id": run_id, **shared, **parameters})

    # --- work ---------------------------------------------------------------------------------------------------

    def alignment(self, project_id: str) -> Work:
        """Poll all participants and align the project."""
        path = f"train/collaborations/{COLLAB}/projects/{project_id}/alignments"
        return Work(
            path,
            "align",
            {"project_id": project_id},
            lambda _: bool(self.health("synf_worker_1")["jobs"]),
            lambda: _bare(self.call("GET", path)),
        )

    def training(self, project_id: str, run_id: str, after: int = 3) -> Work:
        """Train a run; reached when `after` rounds have been finished."""
        return Work(
            f"train/collaborations/{COLLAB}/projects/{project_id}/models/{EXPT}/{run_id}",
            "train",
            {"project_id": project_id, "run_id": run_id},
            lambda job: len(job.rounds) >= after,
            lambda: self.model(project_id, run_id),
        )

    def validation(self, project_id: str, run_id: str) -> Work:
        """Validate a trained run at all participants."""
        path = f"evaluate/collaborations/{COLLAB}/projects/{project_id}/validations/{EXPT}/{run_id}"
        return Work(
            path,
            "validate",
            {"project_id": project_id, "run_id": run_id},
            lambda _: bool(self.health("synf_worker_1")["sessions"]),
            lambda: _bare(self.call("GET", path)),
        )

    def start(self, work: Work) -> Job:
        """Begin it."""
        return Job(self, work)

    def do(self, work: Work) -> Any:
        """Do it undisturbed and return its figures."""
        self.call("POST", work.path, {})
        return work.figures()

    def folder(self, project_id: str, run_id: str, component: str = TTP) -> Path:
        """Return where a run's outputs lie."""
        return FOLDER / "disks" / component / "outputs" / COLLAB / project_id / EXPT / run_id

    def model(self, project_id: str, run_id: str) -> dict[str, Any]:
        """Return the record, the loss histories and a digest of every tensor of every model of a run."""
        files = sorted(self.folder(project_id, run_id).iterdir())
        losses = {file.name: json.loads(file.read_text()) for file in files if file.suffix == ".json"}
        path = f"train/collaborations/{COLLAB}/projects/{project_id}/models/{EXPT}/{run_id}"
        record = self.call("GET", path)[0]["global"]
        losses["record"] = {name: record[name] for name in ("rounds", "best_round", "left_out")}
        return losses | {file.name: _tensors(file) for file in files if file.suffix == ".pt"}

    # --- containers and faults ----------------------------------------------------------------------------------

    def container(self, name: str) -> Container:
        """Return a container of this grid, and of no other."""
        container = self.docker.containers.get(name)
        assert container.labels["org.synergos.grid"] == GRID
        return container

    def up(self, name: str) -> None:
        """Wait until a component answers."""
        wait_for(f"{name} answers", lambda: self.health(name))

    def rounds_since_start(self) -> list[int]:
        """Return the rounds that the TTP's log tells of since its process was started last."""
        events = [json.loads(line) for line in self.container(TTP).logs().splitlines() if line.startswith(b"{")]
        begin = max(index for index, event in enumerate(events) if event["event"] == "started")
        return [event["round"] for event in events[begin:] if event["event"] == "round"]

    def slow(self, name: str, share: float) -> None:
        """Give a container a share of one processor."""
        self.container(name).update(cpu_period=100_000, cpu_quota=int(share * 100_000))

    def quick(self, name: str) -> None:
        """Take the limit back."""
        self.container(name).update(cpu_period=100_000, cpu_quota=-1)

    def crash(self, name: str) -> None:
        """Kill the main process behind the engine's back, so that the restart policy brings it back."""
        self._signal(name, signal.SIGKILL)

    def hang(self, name: str) -> None:
        """Stop the main process: connections are still accepted, by the kernel, and nothing is answered."""
        self._signal(name, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """Let it go on."""
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.container(name).attrs["State"]["Pid"], number)

    def fill(self, name: str) -> None:
        """Leave no byte on a component's disk."""
        with contextlib.suppress(OSError), (FOLDER / "disks" / name / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"\0" * 4096):
                pass

    def free(self, name: str) -> None:
        """Take the filler away."""
        (FOLDER / "disks" / name / "filler").unlink(missing_ok=True)

    def cut(self, name: str) -> None:
        """Pull the network cable of a container."""
        self.engine.disconnect_container_from_network(name, GRID)

    def plug(self, name: str) -> None:
        """Plug it in again, with the address and the names that it had."""
        aliases = [f"synergos_{participant}" for participant, its in WORKERS.items() if its == name]
        address = f"172.28.201.{int(name[-1]) + 2}"
        self.engine.connect_container_to_network(name, GRID, ipv4_address=address, aliases=aliases)


def mount() -> None:
    """Give each of `DISKS` a small file system."""
    for name in DISKS:
        folder = FOLDER / "disks" / name
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", GRID, folder], check=True)


def unmount() -> None:
    """Take the file systems away, also those of an interrupted session."""
    for name in DISKS:
        folder = FOLDER / "disks" / name
        while folder.is_mount():
            subprocess.run(["umount", folder], check=True)


def _free(health: dict[str, Any]) -> bool:
    return not health["jobs"] and not health["sessions"]


def _bare(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records without what differs between two that say the same."""
    return [
        {"participant_id": record["key"]["participant_id"]}
        | {name: value for name, value in record.items() if name in ("train", "evaluate", "statistics", "names")}
        for record in records
    ]


def _tensors(path: Path) -> dict[str, str]:
    # torch's format: a pickle of names and shapes, and one entry per storage with the bytes.
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl") or "/data/" in name]
        return {name.partition("/")[2]: hashlib.sha256(archive.read(name)).hexdigest() for name in names}
