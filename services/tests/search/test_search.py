"""What a search does with its trials, at grids that are functions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_double import PlainClient, register
from search_double import ROUNDS, URL, Director, Functions, directing, quality

from synergos.orchestrator.kinds import RUN

GRID = {"_type": "grid_search", "_value": [0.1, 0.01, 0.001]}


@pytest.fixture
def director(tmp_path: Path) -> Iterator[Director]:
    with directing(tmp_path, Functions()) as found:
        client = PlainClient(str(found.http.base_url))
        register(client)
        client.ok("POST", "train/collaborations/c1/projects/p1/alignments", {})
        until(lambda: found.http.get("/ttp/train/collaborations/c1/projects/p1/alignments").status_code == 200)
        yield found


def until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def states(search: Any) -> list[str]:
    return [trial["state"] for trial in search["trials"]]


def test_a_search_finds_more_than_chance(director: Director) -> None:
    settings = {"max_trial_num": 24, "scheduler": "FIFOScheduler"}
    found = director.search(**settings)
    blind = director.search(**settings, searcher="BasicVariantGenerator")
    assert (found["sampler"], blind["sampler"], found["pruner"]) == ("tpe", "random", "none")
    assert states(found) == states(blind) == ["complete"] * 24
    assert found["best"]["value"] > blind["best"]["value"] > 0.5
    lr = found["best"]["parameters"]["lr"]
    assert found["best"]["value"] == pytest.approx(quality(lr))
    later = [quality(trial["parameters"]["lr"]) for trial in found["trials"][12:]]
    assert sorted(later)[6] > sorted(quality(trial["parameters"]["lr"]) for trial in blind["trials"])[12]


def test_what_is_stored(director: Director) -> None:
    assert director.http.get(URL).status_code == 404
    answer = director.post(max_trial_num=3, scheduler="FIFOScheduler", trial_concurrency=2)
    assert (answer["data"], answer["method"]) == ([], "optimizations.post")
    search = director.done(answer["job_id"])["progress"]["search"]
    told = director.http.get(URL + "/").json()
    assert told["search"] == search
    assert [trial["number"] for trial in search["trials"]] == [0, 1, 2]
    assert [trial["best"] for trial in search["trials"]].count(True) == 1
    assert {grid for trial in search["trials"] for grid in trial["grids"]} == {0, 1}
    assert len(told["data"]) == 6 and {item["kind"] for item in told["data"]} == {"Optimization"}
    with director.database.read() as records:
        runs = {run.key["run_id"]: run.body for run in records.select(RUN) if run.key["run_id"] != "r1"}
    assert runs.keys() == {trial["run_id"] for trial in search["trials"]}
    for trial in search["trials"]:
        assert runs[trial["run_id"]] == {"rounds": ROUNDS, "criterion": "MSELoss", **trial["parameters"]}
    jobs = director.http.get("/ttp/jobs", params={"expt_id": "e1"}).json()["data"]
    assert [job["process"] for job in jobs].count("train") == 3
    assert [job["process"] for job in jobs].count("validate") == 3


def test_refusals(director: Director) -> None:
    def told(status: int, **order: Any) -> str:
        return str(director.post(status, **order)["message"])

    nni = "Unusable request: backend: Specified backend 'nni' is not supported! Supported: tune."
    assert told(417, backend="nni") == nni
    assert told(417, metric="accuracy") == "metric: 'accuracy' is no figure of regression. Supported: R2, MSE, MAE."
    assert told(417, metric=...) == "Unusable request: metric: required, but missing."
    assert director.http.get("/ttp/jobs", params={"process": "optimize"}).json()["data"] == []
    missing = director.http.post(
        URL.replace("e1", "e2"), json={"search_space": {"lr": GRID}, "metric": "R2", "optimize_mode": "max"}
    )
    assert (missing.status_code, "experiment 'e2') does not exist" in missing.text) == (404, True)
    described = director.http.get("/ttp/train/swagger.json").json()
    assert "SearchOrder" in described["components"]["schemas"]


def test_trials_belong_to_their_search(director: Director) -> None:
    """What is asked for all runs of an experiment is not done again for the trials."""
    found = director.search(max_trial_num=2)
    director.http.post("/ttp/train/collaborations/c1/projects/p1/models/e1", json={})
    until(lambda: len(director.functions.trained) == 3)
    named = found["best"]["run_id"]
    director.http.post(f"/ttp/train/collaborations/c1/projects/p1/models/e1/{named}", json={})
    until(lambda: len(director.functions.trained) == 4)


def test_trials_that_do_worse_are_ended(director: Director) -> None:
    director.functions.seconds = 0.03
    search = director.search(max_trial_num=12, trial_concurrency=3)
    assert 0 < states(search).count("pruned") < 12
    assert states(search).count("complete") + states(search).count("pruned") == 12
    pruned = [trial for trial in search["trials"] if trial["state"] == "pruned"]
    assert all(trial["value"] is None and "worse than others" in trial["reason"] for trial in pruned)
    best = max(quality(trial["parameters"]["lr"]) for trial in search["trials"])
    assert search["best"]["value"] == pytest.approx(best)


def test_a_grid_is_searched_once(director: Director) -> None:
    both = {"lr": GRID, "batch_size": {"_type": "grid_search", "_value": [8, 16]}}
    search = director.search(search_space=both, max_trial_num=50, scheduler="FIFOScheduler")
    points = [(trial["parameters"]["lr"], trial["parameters"]["batch_size"]) for trial in search["trials"]]
    assert sorted(points) == [(lr, size) for lr in (0.001, 0.01, 0.1) for size in (8, 16)]
    mixed = {"lr": GRID, "mu": {"_type": "uniform", "_value": [0, 1]}}
    search = director.search(search_space=mixed, max_trial_num=7, scheduler="FIFOScheduler")
    assert sorted(trial["parameters"]["lr"] for trial in search["trials"][:6]) == sorted(2 * GRID["_value"])
    assert len({trial["parameters"]["mu"] for trial in search["trials"]}) == 7


def test_trials_that_fail(director: Director) -> None:
    director.functions.fails = lambda lr: "worker_2 is out of memory." if lr > 0.1 else None
    search = director.search(max_trial_num=20, scheduler="FIFOScheduler")
    failed = [trial for trial in search["trials"] if trial["state"] == "failed"]
    assert failed and all(trial["parameters"]["lr"] > 0.1 for trial in failed)
    assert {trial["reason"] for trial in failed} == {"worker_2 is out of memory."}
    assert len(search["trials"]) == 20
    # Where some fail, others would.
    assert len([trial for trial in failed if trial["number"] >= 10]) <= 2
    director.functions.fails = lambda lr: f"lr is {lr}." if lr == 0.1 else "Too small."
    job = director.done(director.post(search_space={"lr": GRID}, max_trial_num=5)["job_id"])
    assert job["state"] == "failed"
    assert job["reason"].startswith("No trial was completed: ")
    assert "Too small." in job["reason"] and "lr is 0.1." in job["reason"]
    assert states(job["progress"]["search"]) == ["failed"] * 3 and job["progress"]["search"]["best"] is None


def test_losses_that_are_to_be_high(director: Director) -> None:
    """Nobody wants that, but what is asked for is done: pruning included."""
    director.functions.seconds = 0.02
    search = director.search(optimize_mode="min", max_trial_num=8, trial_concurrency=2)
    worst = min(quality(trial["parameters"]["lr"]) for trial in search["trials"])
    assert search["best"]["value"] == pytest.approx(worst)


def test_cancelling(director: Director) -> None:
    director.functions.seconds = 0.05
    job_id = director.post(max_trial_num=50, trial_concurrency=3)["job_id"]
    until(lambda: len(director.job(job_id)["progress"]["search"]["trials"]) > 3)
    answer = director.http.delete(f"/ttp/jobs/{job_id}")
    assert (answer.status_code, answer.json()["data"]["state"]) == (200, "cancelled")
    search = director.job(job_id)["progress"]["search"]
    assert search["state"] == "cancelled" and "running" not in states(search)
    assert search["trials"][-1]["reason"] == f"Cancelled by DELETE /ttp/jobs/{job_id}."
    jobs = director.http.get("/ttp/jobs", params={"expt_id": "e1"}).json()["data"]
    assert not [job for job in jobs if job["state"] in ("queued", "running")]
    count = len(director.functions.trained)
    time.sleep(0.3)
    assert len(director.functions.trained) == count


def test_the_time_is_over(director: Director) -> None:
    director.functions.seconds = 0.02
    search = director.search(max_exec_duration=1.5, max_trial_num=1000, scheduler="FIFOScheduler", trial_concurrency=2)
    assert "complete" in states(search) and len(search["trials"]) < 20
    assert {trial["reason"] for trial in search["trials"] if trial["state"] == "pruned"} <= {
        "max_exec_duration is over."
    }
    director.functions.seconds = 1.0
    job = director.done(director.post(max_exec_duration="1s")["job_id"])
    assert (job["state"], job["reason"]) == ("failed", "No trial was completed: max_exec_duration is over."), job


def test_a_search_goes_on_in_another_process(tmp_path: Path, director: Director) -> None:
    """With what it would have chosen, and without what it has done."""
    settings = {"max_trial_num": 12, "scheduler": "FIFOScheduler"}
    undisturbed = [trial["parameters"] for trial in director.search(**settings)["trials"]]
    director.functions.seconds = 0.02
    job_id = director.post(**settings)["job_id"]
    until(lambda: len(director.job(job_id)["progress"]["search"]["trials"]) == 6)
    director.functions.gate.clear()
    before = director.job(job_id)["progress"]["search"]["trials"]
    functions = Functions()
    with directing(tmp_path / "copy", functions, tmp_path) as second:
        search = second.done(job_id)["progress"]["search"]
    director.functions.gate.set()
    assert [trial["parameters"] for trial in search["trials"]] == undisturbed
    assert [trial["run_id"] for trial in search["trials"][:6]] == [trial["run_id"] for trial in before]
    assert [trial["value"] for trial in search["trials"][:5]] == [trial["value"] for trial in before[:5]]
    assert functions.trained == [parameters["lr"] for parameters in undisturbed[5:]]
