"""A search for hyper-parameters by REST: its trials are jobs of both grids."""

from __future__ import annotations

import json
from typing import Any

from conftest import DATA, EXAMPLE, EXPT, TTPS, Director, eventually

C = "search"
TRIALS = 6
SPACE = {
    "lr": {"_type": "loguniform", "_value": [0.01, 0.1]},
    "batch_size": {"_type": "choice", "_value": [16, 32]},
}
SETTINGS = {**json.loads((DATA / "hyperparameters.json").read_text()), "rounds": 5}
ORDER = {
    "search_space": SPACE,
    "parameters": {name: value for name, value in SETTINGS.items() if name not in SPACE},
    "metric": "R2",
    "optimize_mode": "max",
    "trial_concurrency": 2,
    "max_trial_num": TRIALS,
    "max_exec_duration": "10m",
}


def test_a_search_uses_both_grids_and_marks_the_best(director: Director) -> None:
    path = f"{director.models(C)}/optimizations"
    director.describe(C, {})
    director.align(C)
    assert director.ask("GET", path).status_code == 404
    assert director.call("POST", path, ORDER) == []

    def ended() -> Any:
        answer = director.ask("GET", path)
        assert answer.status_code in (200, 404), answer.text
        reply = answer.json()
        return reply if reply.get("search", {}).get("state") not in (None, "queued", "running") else None

    reply = eventually(ended, timeout=120, interval=0.5)
    assert reply, director.jobs(C, "optimize")
    search = reply["search"]
    assert (search["state"], search["metric"], search["optimize_mode"]) == ("done", "R2", "max"), search
    assert len(search["trials"]) == TRIALS and {trial["state"] for trial in search["trials"]} <= {"complete", "pruned"}
    complete = {trial["run_id"]: trial for trial in search["trials"] if trial["state"] == "complete"}
    assert search["best"]["value"] == max(trial["value"] for trial in complete.values())
    assert search["best"]["parameters"].items() >= complete[search["best"]["run_id"]]["parameters"].items()

    records = reply["data"]
    assert {record["kind"] for record in records} == {"Optimization"}
    assert {record["key"]["run_id"] for record in records} == set(complete)
    for record in records:
        assert record["key"]["run_id"].startswith("optim_run_") and record["evaluate"]["statistics"]
    parts = [part for job in director.jobs(C) for part in job["progress"]["parts"]]
    assert {part["ttp"] for part in parts} == set(TTPS)
    # The winner is a run like any other: it predicts.
    run_id = search["best"]["run_id"]
    predictions = f"evaluate/participants/worker_1/collaborations/{C}/predictions/{EXAMPLE}/{EXPT}/{run_id}"
    tags = {EXAMPLE: [[EXAMPLE, "dataset", "data1", "predict"]]}
    director.call("POST", predictions, {"tags": tags})
    assert eventually(lambda: director.ask("GET", predictions).ok, interval=0.2), director.jobs(C, "predict")
