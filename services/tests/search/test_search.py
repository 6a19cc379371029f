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
