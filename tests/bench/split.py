"""Where the time of a round goes, for a tiny model by default; prints a table and, as the last line, JSON.

`python split.py [--participants 2] [--size 1k]`. The times are taken by wrapping functions, in the TTP's process and in
the workers', which costs some microseconds each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import data
import loopback
from measure import Spans, table
from peer import WORK, Peers
from plain import Plain
from scale import HIDDEN, ROWS, Bench, act_as_ttp
from synergos.federation import codec
from synergos.federation.aggregation import Aggregation
from synergos.federation.checkpoint import Checkpoint
from synergos.federation.grid import DirectGrid
from synergos.federation.line import Line

TURNS = 15


def split(bench: Bench) -> dict[str, float]:
    """Return milliseconds of a round and of its parts, means over all rounds."""
    spans, lengths, count = Spans(), bench.lengths(), len(bench.addresses)
    taken: list[dict[str, float]] = []
    with Peers(bench.addresses) as peers:
        rows = bench.prepare(peers)
        start = Plain(rows[0]["train_X"].shape[1], bench.hidden).weights
        untimed = statistics.median(second for _ in range(TURNS) for second in bench.train()[0].seconds)
        for owner, name in (
            (Aggregation, "configure"),
            (Aggregation, "aggregate"),
            (DirectGrid, "exchange"),
            (Checkpoint, "save"),
            (Line, "ask"),
            (codec, "split"),
            (codec, "decode"),
        ):
            spans.watch(owner, name)
        peers.start_spans()
        for _ in range(TURNS):
            seen: list[dict[str, float]] = []
            turn, _ = bench.train(lambda seen=seen: seen.append({**spans.seconds, **at_workers(peers)}))
            rounds = len(turn.seconds)
            own = {name: (seen[1][name] - seen[0][name]) / rounds for name in seen[0]}
            before = peers.spans()["Plain.turn"]
            plain, _ = peers.rounds("round", bench.rounds, start, lengths)
            turns = (peers.spans()["Plain.turn"] - before) / bench.rounds
            taken.append(
                {
                    **own,
                    "round": statistics.mean(turn.seconds),
                    "plain": statistics.mean(plain.seconds),
                    "plain turn": turns,
                }
            )
    found = {name: 1000 * statistics.median(each[name] for each in taken) for name in taken[0]}
    for name in ("Line.ask", "codec.decode"):
        found[name] /= count
    work = sum(found[f"worker {name}"] for name in WORKER)
    return {
        "round, not traced": 1000 * untimed,
        "round": found["round"],
        **{f"TTP: {name}": found[name] for name in TTP},
        "TTP: checks, history, log": found["round"] - sum(found[name] for name in TTP),
        "encoding in these: message, checkpoint": found["codec.split"],
        "per participant: HTTP request until its reply": found["Line.ask"],
        "per participant: decode at the TTP": found["codec.decode"],
        **{f"per participant: worker {name}": found[f"worker {name}"] for name in WORKER},
        "per participant: HTTP, threads, waiting for a core": found["Line.ask"] - work,
        "plain HTTP: round": found["plain"],
        "plain HTTP: its training, per participant": found["plain turn"],
    }


TTP = ("Aggregation.configure", "DirectGrid.exchange", "Aggregation.aggregate", "Checkpoint.save")
WORKER = ("codec.decode", *(f"training.{name}" for name in WORK), "codec.encode")


def at_workers(peers: Peers) -> dict[str, float]:
    """Return the seconds of the workers' work so far."""
    return {f"worker {name}": seconds for name, seconds in peers.spans().items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=2)
    parser.add_argument("--size", choices=HIDDEN, default="1k")
    options = parser.parse_args()
    act_as_ttp()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example = data.write(folder / "data", [], {}, options.participants, ROWS)
        with loopback.bare_grid(folder / "grid", example.parent) as grid:
            grid.grow(options.participants, "--peer")
            found = split(Bench(grid, folder, options.participants, options.size))
    table(
        f"A round of {options.size} parameters with {options.participants} participants, medians of {TURNS} runs (ms)",
        ["part", "ms"],
        found.items(),
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
