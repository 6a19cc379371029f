"""The demo over the queue: the same phases, and who did what."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster import DIRECTOR, EXAMPLES, PARTICIPANTS, Cluster, ok

from synergos import JobFailed
from synergos.demo.__main__ import run
from synergos.demo.phases import PhaseFailed
from synergos.demo.settings import Settings, parse


def settings(cluster: Cluster, example: str, **changes: Any) -> Settings:
    """Return settings as the playbook writes them."""
    participants = []
    for number, name in enumerate(PARTICIPANTS, 1):
        nodes = [
            {"host": cluster.addresses[f"{name}_n{grid + 1}"], "port": 8020, "f_port": 5000}
            for grid in range(cluster.grids)
        ]
        participants.append({"participant_id": name, "data": f"data{number}", **nodes[0], "nodes": nodes})
    told = {"host": DIRECTOR, "project_id": example, "example": str(EXAMPLES / example), "participants": participants}
    return parse(json.dumps({**told, "collab_id": "demo", **changes}))


def test_a_cycle_says_which_grid_did_what(cluster: Cluster) -> None:
    told = settings(cluster, "wine")
    done = {phase: run(phase, told) for phase in ("register", "align", "train", "validate", "predict")}
    assert done["align"]["spacers"].keys() == set(PARTICIPANTS)
    assert len(done["train"]["losses"]["round"]) == told.run_parameters["rounds"]
    assert done["validate"]["statistics"].keys() == done["predict"]["statistics"].keys() == set(PARTICIPANTS)
    rows = [row for phase in done.values() for row in phase.get("work", [])]
    assert [row["job"] for row in rows] == ["align", "train", "validate", *["predict"] * 4]
    assert {(row["grid"], row["ttp"]) for row in rows} <= {(0, "sync_ttp_1"), (1, "sync_ttp_2")}
    assert rows[1]["what"] == "wine/model/run"


def test_a_failure_at_a_grid_is_told(cluster: Cluster) -> None:
    told = settings(cluster, "wine", project_id="alone", parameters={"min_participants": 3})
    for phase in ("register", "align"):
        run(phase, told)
    with pytest.raises(PhaseFailed, match=r"^The training failed: .*min_participants is 3"):
        run("train", told)


def test_a_search_marks_the_best_of_its_trials(cluster: Cluster) -> None:
    told = settings(cluster, "diabetes", trials=4)
    for phase in ("register", "align"):
        run(phase, told)
    found = run("search", told)
    search = found["search"]
    assert (search["state"], search["metric"], len(search["trials"])) == ("done", "R2", 4)
    values = {trial["run_id"]: trial["value"] for trial in search["trials"] if trial["state"] == "complete"}
    assert search["best"]["value"] == max(values.values())
    header, *rows = found["table"]
    assert header.split() == ["trial", *told.read("ranges.json"), "R2", "grid", "state"]
    assert [row.endswith(" best") for row in rows] == [
        trial["run_id"] == search["best"]["run_id"] for trial in search["trials"]
    ]
    # Its best run predicts; trainings of the experiment are not those of the search.
    driver, experiment = cluster.driver, told.keys[:3]
    tags = {"diabetes": [["diabetes", "dataset", "data1", "predict"]]}
    ok(driver.predictions.create(tags, "worker_1", *experiment, search["best"]["run_id"]))
    scope = "worker_1", *experiment, search["best"]["run_id"]
    assert len(driver.predictions.wait(*scope, timeout=60, interval=0.2)["data"]) == 1
    assert driver.optimizations.wait(*experiment, timeout=10)["search"]["job_id"] == search["job_id"]
    driver.jobs.wait(search["job_id"], timeout=10)


def test_a_search_that_is_called_off_ends_the_waiting(cluster: Cluster) -> None:
    told = settings(cluster, "diabetes", project_id="searching")
    for phase in ("register", "align"):
        run(phase, told)
    driver, experiment = cluster.driver, told.keys[:3]
    space = {"lr": {"_type": "uniform", "_value": [0.01, 0.1]}}
    reply = driver.optimizations.create(*experiment, space, "R2", "max", 2, parameters={"rounds": 2000})
    driver.jobs.delete(reply["job_id"])
    with pytest.raises(JobFailed, match=r"optimize of demo/searching/model cancelled: "):
        driver.optimizations.wait(*experiment, timeout=60, interval=0.2)
