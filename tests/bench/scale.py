"""Rounds over the number of participants and the size of the model, beside their peers; the last line is JSON.

A round of ours is `GridEngine.train` of the TTP, in this process, over real workers, a process each, on loopback.
Peers, measured in turn with it: plain HTTP with as many bytes and the same training; the same without training; a
plain training loop in this process. `python scale.py [--participants 2 8] [--sizes 1k 100k] [--turns 3]`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import data
import loopback
import numpy as np
import torch
from measure import GIB, MIB, Mark, Turn, available, median, memory, table
from peer import Peers
from plain import LR, Plain, Rows, Weights, mean
from synergos import cli, logs
from synergos.federation.line import Answer, Line
from synergos.jobs import AlignJob, Node, Party, Tags, TrainJob
from synergos.ttp.engine import GridEngine

PARTICIPANTS = [2, 4, 8, 16, 32]
# Width of the two hidden layers that gives about so many weights.
HIDDEN = {"1k": 26, "100k": 310, "10M": 3156}
ROUNDS = {"1k": 12, "100k": 12, "10M": 4}
ROWS = 200
# Measured: own memory of a worker with torch; copies of a model that a worker, its peer and the TTP make for it.
PROCESS, COPIES = 320 * MIB, 12
# No further turn of a cell starts after so many seconds, once there are two.
PATIENCE = 60.0


class Bench:
    """A grid without a TTP process: this process takes its part, so that each round can be seen.

    Args:
        grid: its workers have a peer beside them.
        participants: how many of the workers take part.
    """

    def __init__(self, grid: loopback.Grid, folder: Path, participants: int, size: str) -> None:
        self.addresses = list(grid.workers.values())[:participants]
        self.hidden, self.rounds = HIDDEN[size], ROUNDS[size]
        self.engine = GridEngine(folder / "outputs")
        parties = [
            Party(
                node=Node(participant_id=name, host=address, command_port=5000, data_port=8020),
                tags=Tags(**{meta: [[data.NAME, "dataset", f"data{number}", meta]] for meta in ("train", "evaluate")}),
            )
            for number, (name, address) in enumerate(list(grid.workers.items())[:participants], 1)
        ]
        ids = {"collab_id": "bench", "project_id": f"p{participants}_{size}", "action": "regress"}
        model = data.layers([10, self.hidden, self.hidden, 1])
        aligned = self.engine.align(AlignJob(**ids, parties=parties, experiments={"model": model}))
        for party in parties:
            party.alignment = aligned.alignments[party.node.participant_id]
        parameters = {
            "algorithm": "FedAvg",
            "rounds": self.rounds,
            "patience": self.rounds,
            "epochs": 1,
            "lr": LR,
            "lr_scheduler": "LambdaLR",
            "lr_decay": 0,
            "criterion": "MSELoss",
        }
        self.job = TrainJob(
            **ids,
            expt_id="model",
            run_id="run",
            parties=parties,
            model=aligned.experiments.get("model", model),
            parameters=parameters,
        )

    def train(self, inspect: Callable[[], None] = lambda: None) -> tuple[Turn, float]:
        """Train once; return the figures of the rounds and the last loss.

        Args:
            inspect: called right before the first round that counts and right after the last.
        """
        marks: list[Mark] = []
        losses: list[float] = []

        def watch(progress: Any) -> None:
            if not marks:
                inspect()
            marks.append(Mark.now())
            losses.append(progress.train_loss)
            if len(marks) == self.rounds:
                inspect()

        self.engine.train(self.job, watch)
        return Turn.of(marks), losses[-1]

    def prepare(self, peers: Peers) -> list[Rows]:
        """Have the peers take the rows of the sessions that a run opens; return them."""
        rows: list[Rows] = []
        self.train(lambda: rows.extend([] if rows else peers.prepare(self.hidden)))
        return rows

    def lengths(self) -> tuple[int, int]:
        """Return the bytes of the body of a message and of its reply."""
        seen = [(0, 0)]
        ask = Line.ask

        def look(line: Line, method: str, path: str, content: Any, *args: Any) -> Answer:
            answer = ask(line, method, path, content, *args)
            if "/messages/train/" in path:
                seen.append((sum(map(len, content)), len(answer.body)))
            return answer

        with mock.patch.object(Line, "ask", look):
            self.train()
        return seen[-1]


def in_process(plain: Plain, rows: Sequence[Rows], weights: Weights, rounds: int) -> tuple[Turn, float]:
    """Train in this process, one participant after the other; return the figures and the last mean loss."""
    marks, losses = [], [0.0]
    for _ in range(rounds):
        turns = [plain.turn(weights, own) for own in rows]
        weights = mean([trained for trained, _ in turns])
        losses = [loss for _, loss in turns]
        marks.append(Mark.now())
    return Turn.of(marks), sum(losses) / len(losses)


def cell(grid: loopback.Grid, folder: Path, participants: int, size: str, turns: int) -> dict[str, float]:
    """Return the medians of ours and of the peers for one number of participants and one size."""
    bench = Bench(grid, folder, participants, size)
    lengths = bench.lengths()
    taken: dict[str, list[Turn]] = {"ours": [], "http": [], "echo": [], "loop": []}
    losses: dict[str, float] = {}
    with Peers(bench.addresses) as peers:
        rows = bench.prepare(peers)
        plain = Plain(rows[0]["train_X"].shape[1], bench.hidden)
        start = plain.weights
        plays = {
            "ours": bench.train,
            "http": lambda: peers.rounds("round", bench.rounds, start, lengths),
            "echo": lambda: peers.rounds("echo", bench.rounds, start, lengths),
            "loop": lambda: in_process(plain, rows, start, bench.rounds),
        }
        begin = time.monotonic()
        # In short turns, so that whatever else the machine does hits all of them.
        while len(taken["ours"]) < turns and (len(taken["ours"]) < 2 or time.monotonic() - begin < PATIENCE):
            for name, play in plays.items():
                turn, losses[name] = play()
                taken[name].append(turn)
    # Otherwise the peers would not do the same work.
    for name in ("http", "loop"):
        if not math.isclose(losses[name], losses["ours"], rel_tol=1e-3):
            raise SystemExit(f"The losses differ, so the trainings are not the same: {losses}.")
    medians = {name: median(turns) for name, turns in taken.items()}
    ours, unavoidable = medians["ours"], 2 * start.nbytes * participants
    return {
        "participants": participants,
        "weights": start.size,
        "turns": len(taken["ours"]),
        **{f"{name} ms": 1000 * turn.seconds[0] for name, turn in medians.items()},
        **{f"{name} CPU ms": 1000 * turn.cpu for name, turn in medians.items()},
        "ours TTP CPU ms": 1000 * ours.own,
        "ours / http": ours.seconds[0] / medians["http"].seconds[0],
        "ours / loop": ours.seconds[0] / medians["loop"].seconds[0],
        "CPU ours / http": ours.cpu / medians["http"].cpu,
        **{f"{name} bytes / unavoidable": medians[name].http / unavoidable for name in ("ours", "http")},
        "wire / unavoidable": ours.wire / unavoidable,
        "overhead bytes": (ours.http - unavoidable) / participants,
    }


def fit(rows: Sequence[dict[str, float]], name: str) -> str:
    """Return the line through the milliseconds `name` over participants, and how far the figures are from it."""
    counts, taken = (np.array([row[each] for row in rows]) for each in ("participants", name))
    slope, offset = np.polyfit(counts, taken, 1)
    spread = np.abs(taken / (offset + slope * counts) - 1).max()
    r2 = 1 - np.square(taken - offset - slope * counts).sum() / np.square(taken - taken.mean()).sum()
    return f"{offset:.1f} ms + {slope:.2f} ms x participants, R2 {r2:.4f}, farthest point {spread:.0%} off the line"


COLUMNS = {
    "n": "participants",
    "ours ms": "ours ms",
    "HTTP": "http ms",
    "echo": "echo ms",
    "loop": "loop ms",
    "x HTTP": "ours / http",
    "x loop": "ours / loop",
    "ours CPU ms": "ours CPU ms",
    "of it TTP": "ours TTP CPU ms",
    "HTTP ": "http CPU ms",
    "loop ": "loop CPU ms",
    "x HTTP ": "CPU ours / http",
    "bytes x": "ours bytes / unavoidable",
    "HTTP  ": "http bytes / unavoidable",
    "wire x": "wire / unavoidable",
    "extra B": "overhead bytes",
}


def show(size: str, rows: Sequence[dict[str, float]]) -> None:
    """Print the table of one size."""
    table(
        f"{size} parameters ({rows[0]['weights']:,} weights): one round, medians over {rows[0]['turns']} runs",
        list(COLUMNS),
        ([row[name] for name in COLUMNS.values()] for row in rows),
    )
    if len(rows) > 2:
        print(f"growth of time: {fit(rows, 'ours ms')}\ngrowth of CPU:  {fit(rows, 'ours CPU ms')}")


def lacking(participants: int, running: int, size: str) -> str:
    """Return why a cell does not fit into memory; nothing if it does."""
    model = 4 * (HIDDEN[size] ** 2 + 13 * HIDDEN[size] + 1)
    needed = (participants - running) * PROCESS + participants * COPIES * model
    left = available()
    return f"needs about {needed / GIB:.1f} GiB, {left / GIB:.1f} GiB are free" if needed > left else ""


def act_as_ttp(*flags: str) -> None:
    """Take as many cores as a TTP or a worker takes, and log what a TTP logs, but not into the tables."""
    options = cli.parse(cli.parser("ttp"), flags)
    torch.set_num_threads(options.cpus)
    logs.configure(options, "ttp", io.StringIO())


def main() -> None:
    """Measure what the command line names, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, nargs="+", default=PARTICIPANTS)
    parser.add_argument("--sizes", nargs="+", choices=HIDDEN, default=list(HIDDEN))
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    act_as_ttp()
    found: dict[str, list[dict[str, float]]] = {size: [] for size in options.sizes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example = data.write(folder / "data", [], {}, max(options.participants), ROWS)
        with loopback.bare_grid(folder / "grid", example.parent) as grid:
            for participants in sorted(options.participants):
                for size in options.sizes:
                    if why := lacking(participants, len(grid.workers), size):
                        print(f"left out: {size} x {participants}: {why}", flush=True)
                        continue
                    grid.grow(participants, "--peer")
                    found[size].append(cell(grid, folder, participants, size, options.turns))
                    print(f"{size} x {participants}: {found[size][-1]['ours ms']:.1f} ms", flush=True)
            measured = next(iter(grid.processes.values()))
            print(f"a worker with its peer after all this: {memory(measured.pid)['resident']:.0f} MiB resident")
    for size, rows in found.items():
        if rows:
            show(size, rows)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
