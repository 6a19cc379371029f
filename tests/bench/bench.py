"""How long a federated cycle and a federated round take; prints tables and, as the last line, JSON.

`python tests/bench/bench.py [cycle|round]...` where the services and torch are installed, for example in the test
image. Everything runs on loopback addresses of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import data
import httpx
import loopback
import numpy as np
import plain
from flwr.app import ConfigRecord
from synergos.demo.__main__ import PHASES, run
from synergos.demo.compare import Study
from synergos.demo.settings import Settings
from synergos.federation import codec, strategy, training
from synergos.federation.grid import DirectGrid, Endpoint
from synergos.federation.layers import Network
from synergos.federation.parameters import Parameters
from synergos.jobs import AlignJob, Node, Party, Tags, TrainJob
from synergos.ttp.engine import GridEngine
from synergos.ttp.workers import WorkerClient

# As the original's notebooks ran it: two rounds of one epoch over the whole set at once.
CYCLE = {"rounds": 2, "epochs": 1, "base_lr": 0.0005, "max_lr": 0.005, "criterion": "MSELoss"}
SMALL, LARGE = [(10, 16), (16, 1)], [(10, 500), (500, 500), (500, 1)]
ROUNDS, SKIPPED = 12, 2
PORT = 5900


def settings(grid: loopback.Grid, example: Path, number: int) -> Settings:
    """Return the settings of one cycle in a project of its own."""
    participants = [
        {"participant_id": name, "host": address, "data": f"data{index}"}
        for index, (name, address) in enumerate(grid.workers.items(), 1)
    ]
    return Settings.model_validate(
        {"host": grid.ttp, "project_id": f"cycle_{number}", "example": example, "participants": participants}
    )


def cycles(repeats: int) -> dict[str, dict[str, float]]:
    """Return the median seconds per phase: `cold` right after the start of all processes, `warm` afterwards."""
    taken: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    phases = [phase for phase in PHASES if phase != "compare"]
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            example = data.write(Path(folder) / "data", [(10, 1)], CYCLE)
            with loopback.grid(Path(folder) / "grid", example.parent) as grid:
                for number in range(4):
                    told = settings(grid, example, number)
                    seconds = {phase: float(run(phase, told)["seconds"]) for phase in phases}
                    seconds["total"] = sum(seconds.values())
                    taken["warm" if number else "cold"].append(seconds)
    return {
        state: {phase: statistics.median(each[phase] for each in found) for phase in found[0]}
        for state, found in taken.items()
    }


def rounds(repeats: int) -> dict[str, dict[str, float]]:
    """Return per model size the median milliseconds of a round and of its peers, and what they carry."""
    found = {}
    for size, layers in {"small": SMALL, "large": LARGE}.items():
        parameters = {**CYCLE, "algorithm": "FedAvg", "mu": 0.0, "rounds": ROUNDS, "patience": ROUNDS}
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            example = data.write(Path(folder) / "data", layers, parameters)
            grid = stack.enter_context(loopback.grid(Path(folder) / "grid", example.parent))
            session = stack.enter_context(federation(grid, example, parameters, Path(folder)))
            peers = stack.enter_context(plain_workers(example))
            message = session.message()
            samples: dict[str, list[float]] = {"federated": [], "same work": [], "echo": []}
            # In short turns, so that whatever else the machine does hits all of them.
            for _ in range(4 * repeats):
                samples["federated"] += session.times()
                samples["same work"] += peers("/round", message)
                samples["echo"] += peers("/echo", message)
            medians = {kind: statistics.median(times) for kind, times in samples.items()}
            found[size] = {
                "message_bytes": len(message),
                **{f"{kind} ms": 1000 * seconds for kind, seconds in medians.items()},
                "ratio to same work": medians["federated"] / medians["same work"],
                "ratio to echo": medians["federated"] / medians["echo"],
            }
    return found


class Federation:
    """An open session at every worker, driven without the REST of a TTP so that each round can be timed."""

    def __init__(self, grid: DirectGrid, network: Network, job: TrainJob) -> None:
        self._grid, self._weights, self._parameters = grid, training.to_record(network), Parameters.read(job.parameters)
        self._settings = {"architecture": json.dumps(job.model), "parameters": json.dumps(job.parameters)}

    def message(self) -> bytes:
        """Return what goes to a worker in a round."""
        configured = strategy.make_strategy(self._parameters, 2)
        configured.prepare(self._grid, self._parameters, lambda *_: None)
        config = ConfigRecord({**self._settings})
        first = next(iter(configured.configure_train(2, self._weights, config, self._grid)))
        return codec.encode(first.content)

    def times(self) -> list[float]:
        """Return the seconds that each round of a run took."""
        marks: list[float] = []
        strategy.run(
            self._grid,
            self._weights,
            self._parameters,
            self._settings,
            lambda *_: marks.append(time.perf_counter()),
            60.0,
        )
        return differences(marks)


@contextmanager
def federation(grid: loopback.Grid, example: Path, parameters: dict[str, Any], folder: Path) -> Iterator[Federation]:
    """Align a project and initialise every worker."""
    parties = [
        Party(
            node=Node(participant_id=name, host=address, command_port=5000, data_port=8020),
            tags=Tags(**{meta: [[example.name, "dataset", f"data{index}", meta]] for meta in ("train", "evaluate")}),
        )
        for index, (name, address) in enumerate(grid.workers.items(), 1)
    ]
    engine = GridEngine(folder / "outputs")
    aligned = engine.align(AlignJob(collab_id="bench", project_id="rounds", action="regress", parties=parties))
    parties = [
        party.model_copy(update={"alignment": aligned.alignments[party.node.participant_id]}) for party in parties
    ]
    job = TrainJob(
        collab_id="bench",
        project_id="rounds",
        expt_id="model",
        run_id="run",
        action="regress",
        parties=parties,
        model=Study.of(plain.settings(example)).model,
        parameters=parameters,
    )
    endpoints = []
    for party in parties:
        token = secrets.token_urlsafe(32)
        with WorkerClient(party.node, 60.0) as worker:
            worker.initialise(job, party, token)
        endpoints.append(Endpoint(party.node.participant_id, f"http://{party.node.host}:8020", token))
    direct = DirectGrid(endpoints)
    try:
        yield Federation(direct, Network(job.model), job)
    finally:
        direct.close()


@contextmanager
def plain_workers(example: Path) -> Iterator[Callable[[str, bytes], list[float]]]:
    """Start the peers and yield a function that plays rounds on one of their routes and returns the seconds of each."""
    names = {"worker_1": "127.0.0.12", "worker_2": "127.0.0.13"}
    script = Path(plain.__file__)
    threads = str(max(1, len(os.sched_getaffinity(0)) - 1))
    processes = [
        subprocess.Popen(
            [sys.executable, script, address, str(PORT), example, name], env={**os.environ, "OMP_NUM_THREADS": threads}
        )
        for name, address in names.items()
    ]
    clients = [httpx.Client(base_url=f"http://{address}:{PORT}", timeout=60) for address in names.values()]
    network = Network(Study.of(plain.settings(example)).model)
    size = sum(weight.numel() for weight in network.state_dict().values())
    start = np.concatenate([weight.numpy().ravel() for weight in network.state_dict().values()])

    def play(route: str, message: bytes) -> list[float]:
        weights, padding = start, message[4 * size :]
        marks = []
        for _ in range(ROUNDS):
            body = weights.tobytes() + padding
            sent = [pool.submit(client.post, route, content=body) for client in clients]
            replies = [reply.result().raise_for_status().content for reply in sent]
            trained = [np.frombuffer(reply, dtype=np.float32, count=size) for reply in replies]
            weights = (trained[0] + trained[1]) / 2
            marks.append(time.perf_counter())
        return differences(marks)

    try:
        for client in clients:
            await_health(client)
        with ThreadPoolExecutor(len(clients)) as pool:
            yield play
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=30)
        for client in clients:
            client.close()


def await_health(client: httpx.Client) -> None:
    """Wait until the service answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client.get("/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise SystemExit(f"{client.base_url} did not start.")


def differences(marks: list[float]) -> list[float]:
    """Return the seconds between marks, without the first rounds."""
    return [after - before for before, after in zip(marks[SKIPPED:], marks[SKIPPED + 1 :], strict=False)]


def show(title: str, columns: dict[str, dict[str, float]]) -> None:
    """Print one column per entry of `columns`."""
    print(f"\n{title}")
    print(" " * 20 + "".join(f"{name:>12}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"{row:<20}" + "".join(f"{column[row]:>12.3f}" for column in columns.values()))


def main() -> None:
    """Run what the command line names, by default everything."""
    parser = argparse.ArgumentParser(description="Time federated cycles and rounds on this machine.")
    parser.add_argument("what", nargs="*", metavar="cycle|round", default=["cycle", "round"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if "cycle" in options.what:
        result["cycle"] = cycles(options.repeats)
        show("Cycle: 2 rounds x 1 epoch, 2,500 rows, 2 workers (seconds, median)", result["cycle"])
    if "round" in options.what:
        result["round"] = rounds(options.repeats)
        show("Round: train and evaluate at 2 workers (median)", result["round"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
