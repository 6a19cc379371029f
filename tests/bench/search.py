"""A search against as many random trials, with several seeds, on a cluster of two grids; the last line is JSON.

`python search.py [--seeds 7] [--trials 20] [--concurrency 2]`. Broker, Director, TTPs and workers are real processes
on loopback addresses. Both searches of a seed have the same space, and none of them prunes but ours, which is left as
a request finds it that names neither searcher nor scheduler.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import table

TESTS = Path(__file__).resolve().parents[2] / "services" / "tests"
sys.path[:0] = [str(TESTS / "director"), str(TESTS / "queue")]

from cluster import Cluster, Keys  # noqa: E402
from rabbit import Rabbit  # noqa: E402

ROUNDS = 10
SPACE = {
    "lr": {"_type": "loguniform", "_value": [1e-6, 1.0]},
    "momentum": {"_type": "uniform", "_value": [0.0, 0.99]},
    "l2_lambda": {"_type": "loguniform", "_value": [1e-5, 10.0]},
    "batch_size": {"_type": "choice", "_value": [64, 128]},
}
FIXED = {"algorithm": "FedAvg", "epochs": 1, "criterion": "MSELoss", "lr_scheduler": "ConstantLR"}
KINDS: dict[str, dict[str, str]] = {
    "search": {},
    "random": {"searcher": "BasicVariantGenerator", "scheduler": "FIFOScheduler"},
}
Found = dict[str, Any]


def search(cluster: Cluster, keys: Keys, seed: int, kind: str, options: argparse.Namespace) -> Found:
    """Have a search done and return its figures."""
    begin = time.perf_counter()
    reply = cluster.driver.optimizations.create(
        *keys,
        search_space=SPACE,
        metric="R2",
        optimize_mode="max",
        max_trial_num=options.trials,
        trial_concurrency=options.concurrency,
        parameters={**FIXED, "rounds": ROUNDS, "patience": ROUNDS},
        seed=seed,
        **KINDS[kind],
    )
    if reply["status"] != 200:
        raise SystemExit(reply["message"])
    while True:
        job = cluster.driver.jobs.read(reply["job_id"])["data"]
        if job["state"] not in ("queued", "running"):
            break
        time.sleep(0.2)
    if job["state"] != "done":
        raise SystemExit(f"The search failed: {job['reason']}")
    found = job["progress"]["search"]
    states = Counter(trial["state"] for trial in found["trials"])
    return {
        "seed": seed,
        "best": found["best"]["value"],
        "seconds": time.perf_counter() - begin,
        "states": states,
        "grids": Counter(grid for trial in found["trials"] for grid in trial["grids"]),
    }


@contextmanager
def running() -> Iterator[Cluster]:
    """Start a cluster, and end it afterwards."""
    rabbit = Rabbit()
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="bench-")), rabbit)
    try:
        rabbit.start()
        cluster.start()
        yield cluster
    except BaseException:
        print(cluster.complaints(), file=sys.stderr)
        raise
    finally:
        cluster.stop()
        rabbit.kill()
        for folder in (rabbit.folder, cluster.root):
            shutil.rmtree(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=2)
    options = parser.parse_args()
    runs: dict[str, list[Found]] = {kind: [] for kind in KINDS}
    with running() as cluster:
        keys = cluster.describe("bench")
        cluster.align(keys)
        for seed in range(1, options.seeds + 1):
            for kind, found in runs.items():
                found.append(search(cluster, keys, seed, kind, options))
                print(kind, found[-1], file=sys.stderr, flush=True)
    wins = sum(ours["best"] > other["best"] for ours, other in zip(runs["search"], runs["random"], strict=True))
    summary: dict[str, Found] = {}
    for kind, found in runs.items():
        states = sum((each["states"] for each in found), Counter[str]())
        summary[kind] = {
            "median": statistics.median(each["best"] for each in found),
            "worst": min(each["best"] for each in found),
            "seconds": statistics.median(each["seconds"] for each in found),
            "pruned": states["pruned"] / states.total(),
            "failed": states["failed"] / states.total(),
            "grids": dict(sorted(sum((each["grids"] for each in found), Counter[int]()).items())),
        }
    rows = (
        [
            kind,
            *(f"{each[name]:.4f}" for name in ("median", "worst")),
            each["seconds"],
            *(f"{each[name]:.0%}" for name in ("pruned", "failed")),
            str(each["grids"]),
        ]
        for kind, each in summary.items()
    )
    title = f"Best R2 of {options.trials} trials; of {options.seeds} seeds the search wins {wins}"
    table(title, ["", "median", "worst", "seconds", "pruned", "failed", "trials by grid"], rows)
    print(json.dumps({"wins": wins, "seeds": options.seeds, **summary}))


if __name__ == "__main__":
    main()
