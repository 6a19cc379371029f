"""Searches at a real cluster: broker, Director, two TTPs and their workers."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from cluster import Cluster, Keys, ok, until
from mlflow_server import Server

SPACE = {
    "lr": {"_type": "loguniform", "_value": [1e-4, 0.5]},
    "batch_size": {"_type": "choice", "_value": [16, 32, 64]},
}


def fixed(**parameters: Any) -> dict[str, Any]:
    """Return the run parameters of diabetes that are not searched for."""
    return {"algorithm": "FedAvg", "epochs": 2, "criterion": "MSELoss", "lr_scheduler": "ConstantLR", **parameters}


def order(cluster: Cluster, keys: Keys, **changes: Any) -> str:
    """Start a search and return the id of its job."""
    settings = {
        "search_space": SPACE,
        "metric": "R2",
        "optimize_mode": "max",
        "parameters": fixed(rounds=10),
        "seed": 1,
    }
    reply = cluster.driver.optimizations.create(*keys, **{**settings, **changes})
    assert (reply["status"], reply["data"]) == (200, []), reply
    return str(reply["job_id"])


def test_a_search(cluster: Cluster) -> None:
    keys = cluster.describe("search", epochs=2)
    refused = cluster.driver.optimizations.create(*keys, SPACE, "R2", "max")
    assert (refused["status"], "is not aligned for worker_1, worker_2" in refused["message"]) == (417, True), refused
    cluster.align(keys)
    assert cluster.driver.optimizations.read(*keys)["status"] == 404
    job_id = order(cluster, keys, trial_concurrency=3, max_trial_num=12)
    [job] = cluster.done(170, collab_id="search", process="optimize")
    assert (job["job_id"], job["state"]) == (job_id, "done"), job
    search = job["progress"]["search"]
    reply = cluster.driver.optimizations.read(*keys)
    assert reply["search"] == search
    assert [trial["number"] for trial in search["trials"]] == list(range(12))
    complete = [trial for trial in search["trials"] if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["value"])
    assert search["best"] == {name: best[name] for name in ("run_id", "value", "parameters")}
    assert {grid for trial in search["trials"] for grid in trial["grids"]} == {0, 1}
    records = ok(reply)
    assert {record["kind"] for record in records} == {"Optimization"}
    assert {record["key"]["run_id"] for record in records} == {trial["run_id"] for trial in complete}
    figures = [r["evaluate"]["statistics"]["R2"] for r in records if r["key"]["run_id"] == best["run_id"]]
    assert len(figures) == 2 and sum(figures) / 2 == best["value"]


def test_the_director_is_killed_in_the_middle(cluster: Cluster) -> None:
    keys = cluster.describe("search killed")
    cluster.align(keys)
    job_id = order(cluster, keys, trial_concurrency=2, max_trial_num=8, parameters=fixed(rounds=20))

    def trials() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ok(cluster.driver.jobs.read(job_id))["progress"]["search"]["trials"]
        return found

    for ended in (2, 4):
        until(lambda ended=ended: sum(trial["state"] != "running" for trial in trials()) >= ended, 100)
        before = trials()
        cluster.kill("sync_director")
        time.sleep(1)
        cluster.start("sync_director")
        for was, found in zip(before, trials(), strict=False):
            assert was["run_id"] == found["run_id"]
            assert was["state"] == "running" or (was["state"], was["value"]) == (found["state"], found["value"])
    [job] = cluster.done(170, collab_id="search killed", process="optimize")
    assert job["state"] == "done", job
    found = job["progress"]["search"]["trials"]
    assert [trial["number"] for trial in found] == list(range(8))
    begun = Counter(entry["run_id"] for entry in cluster.events("training begins") if entry["collab_id"] == keys[0])
    assert begun == {trial["run_id"]: 1 for trial in found}
    complete = [trial["run_id"] for trial in found if trial["state"] == "complete"]
    records = ok(cluster.driver.optimizations.read(*keys))
    assert Counter(record["key"]["run_id"] for record in records) == dict.fromkeys(complete, 2)


def test_the_best_trial_is_marked_in_mlflow(cluster: Cluster, mlflow: Server) -> None:
    keys = cluster.describe("search tracked")
    cluster.align(keys)
    job_id = order(cluster, keys, trial_concurrency=2, max_trial_num=3, scheduler="FIFOScheduler")
    [job] = cluster.done(170, collab_id="search tracked", process="optimize")
    assert job["state"] == "done", job
    search = job["progress"]["search"]
    experiment = "_>_".join(keys)
    mlflow.until(lambda: any("best" in run.data.tags for run in mlflow.runs(experiment)))
    tags = {run.info.run_name: run.data.tags for run in mlflow.runs(experiment)}
    assert {name: (found["search"], found["trial"]) for name, found in tags.items()} == {
        trial["run_id"]: (job_id, str(trial["number"])) for trial in search["trials"]
    }
    assert [name for name, found in tags.items() if found.get("best") == "true"] == [search["best"]["run_id"]]
