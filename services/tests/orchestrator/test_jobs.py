"""Phases 2 and 3: the notebooks' sequence, what the engine is given, what is stored, and what failures leave behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grid_double
import pytest
from grid_double import (
    EXPERIMENT,
    LAYOUT,
    MODEL,
    PROJECT,
    RUN,
    Grid,
    PlainClient,
    register,
    registration,
)

from synergos.errors import GridFailure
from synergos.orchestrator.queue import exclusive

TRAIN = "train/collaborations/c1/projects/p1"
EVALUATE = "evaluate/collaborations/c1/projects/p1"
PREDICT = "evaluate/participants/worker_1/collaborations/c1/predictions/p1"
FLAGS = {"auto_align": True, "dockerised": True, "verbose": True, "log_msgs": True}
NEW_DATA = {"tags": {"p1": [["abalone", "dataset", "data1", "predict"]]}}
RUN_KEY = {"collab_id": "c1", "project_id": "p1", "expt_id": "e1", "run_id": "r1"}


def train(client: PlainClient) -> None:
    client.ok("POST", f"{TRAIN}/alignments", {})
    client.ok("POST", f"{TRAIN}/models", {})


def test_the_sequence_of_the_notebooks(client: PlainClient, grid: Grid) -> None:
    register(client)
    calls = [
        ("POST", f"{TRAIN}/alignments", {"auto_align": True, "auto_fix": True}, 201, "alignments.post"),
        ("GET", f"{TRAIN}/alignments", None, 200, "alignments.get"),
        ("POST", f"{TRAIN}/models/e1/r1", FLAGS, 200, "models.post"),
        ("GET", f"{TRAIN}/models/e1/r1", None, 200, "models.get"),
        ("POST", f"{EVALUATE}/validations/e1/r1", FLAGS, 200, "validations.post"),
        ("GET", f"{EVALUATE}/validations/e1/r1", None, 200, "validations.get"),
        ("POST", f"{PREDICT}/e1/r1", {**FLAGS, **NEW_DATA}, 200, "predictions.post"),
        ("GET", f"{PREDICT}/e1/r1", None, 200, "predictions.get"),
    ]
    answers = {}
    for verb, path, body, status, method in calls:
        response = client(verb, path, body)
        answers[method] = response.json()
        assert (response.status_code, answers[method]["method"]) == (status, method), response.text
        assert isinstance(answers[method]["data"], list)
        assert "NaN" not in response.text
    for resource in ("alignments", "models", "validations", "predictions"):
        assert answers[f"{resource}.get"]["data"] == answers[f"{resource}.post"]["data"]
        assert answers[f"{resource}.get"]["params"] == answers[f"{resource}.post"]["params"]
    assert answers["models.get"]["params"] == RUN_KEY

    alignment, other = answers["alignments.get"]["data"]
    assert alignment["kind"] == "Alignment"
    assert alignment["key"] == {"collab_id": "c1", "project_id": "p1", "participant_id": "worker_1"}
    assert (alignment["evaluate"], alignment["train"], other["evaluate"]) == (
        {"X": [1], "y": []},
        {"X": [], "y": []},
        {"X": [], "y": []},
    )
    assert alignment["layout"] == json.loads(LAYOUT.model_dump_json())
    # The experiment was fitted in place.
    assert client.ok("GET", EXPERIMENT)["model"][0]["structure"] == {"in_features": 3, "out_features": 1}

    [model] = answers["models.get"]["data"]
    assert (model["kind"], model["key"]) == ("Model", RUN_KEY)
    assert {name: model[name]["origin"] for name in ("global", "local_1", "local_2")} == {
        "global": "ttp",
        "local_1": "worker_1",
        "local_2": "worker_2",
    }
    assert model["global"]["loss_history"] == "/orchestrator/outputs/c1/p1/e1/r1/global_loss_history.json"

    assert {name: model["global"][name] for name in ("rounds", "best_round", "left_out", "checkpoints")} == {
        "rounds": 2,
        "best_round": 1,
        "left_out": [],
        "checkpoints": ["/orchestrator/outputs/c1/p1/e1/r1/checkpoints/round_2.pt"],
    }

    validations = answers["validations.get"]["data"]
    assert [record["key"]["participant_id"] for record in validations] == ["worker_1", "worker_2"]
    # An undefined figure is null.
    assert validations[0]["evaluate"]["statistics"] == {"R2": None, "MSE": 1.5, "MAE": 1.0}
    [prediction] = answers["predictions.get"]["data"]
    assert (prediction["kind"], prediction["key"]) == ("Prediction", {**RUN_KEY, "participant_id": "worker_1"})
    path = "/worker/outputs/c1/p1/e1/r1/predict/inference_statistics_predict.json"
    assert prediction["predict"]["res_path"] == path
    assert client.ok("GET", f"{registration('worker_1')}/tags")["predict"] == NEW_DATA["tags"]["p1"]

    assert [name for name, _ in grid.engine.jobs] == ["align", "train", "infer", "realign", "infer"]
    relations = client.ok("GET", RUN)["relations"]
    assert {name: len(found) for name, found in relations.items()} == {"Model": 1, "Validation": 2, "Prediction": 1}


def test_what_the_engine_is_given(client: PlainClient, grid: Grid) -> None:
    register(client)
    settings = {"momentum": 0.9, "class_weights": [1, 2.5], "min_participants": 1, "grace": 5, "checkpoints": 2}
    client.ok("PUT", RUN, {"batch_size": None, **settings})
    train(client)
    job = grid.engine.jobs[-1][1]
    assert job.parameters == {"rounds": 2, "criterion": "MSELoss", **settings}
    assert job.model[0]["structure"]["in_features"] == 3
    assert job.model[0]["activation"] is None
    node = job.parties[1].node
    assert (node.participant_id, node.host, node.command_port, node.data_port) == (
        "worker_2",
        "172.18.0.4",
        5000,
        8020,
    )
    assert job.parties[0].alignment.evaluate.X == [1]
    assert job.parties[0].alignment.layout == LAYOUT


def test_scopes(client: PlainClient, grid: Grid) -> None:
    register(client)
    client.ok("POST", f"{PROJECT}/experiments", {"expt_id": "e2", "model": MODEL})
    for expt_id, run_id in (("e1", "r2"), ("e2", "r1")):
        client.ok("POST", f"{PROJECT}/experiments/{expt_id}/runs", {"run_id": run_id})
    client.ok("POST", f"{TRAIN}/alignments", {})

    def trained(path: str) -> list[str]:
        found = client.ok("POST", f"{TRAIN}/models{path}", {})
        return [f"{record['key']['expt_id']}/{record['key']['run_id']}" for record in found]

    assert trained("/e1/r2") == ["e1/r2"]
    # Wider than what is trained: only that is evaluated.
    validated = client.ok("POST", f"{EVALUATE}/validations", {})
    assert {record["key"]["run_id"] for record in validated} == {"r2"}
    assert trained("/e1") == ["e1/r1", "e1/r2"]
    assert trained("") == ["e1/r1", "e1/r2", "e2/r1"]
    [one] = client.ok("POST", f"{EVALUATE}/validations/e2/r1/worker_2", {})
    assert one["key"]["participant_id"] == "worker_2"
    assert len(client.ok("GET", f"{EVALUATE}/validations/e1")) == 2
    everywhere = client.ok("POST", "evaluate/participants/worker_1/collaborations/c1/predictions", NEW_DATA)
    assert len(everywhere) == 3


def test_drift_leaves_tags_and_alignment_alone(client: PlainClient, grid: Grid) -> None:
    register(client)
    train(client)
    before = grid.snapshot()
    response = client("POST", PREDICT, {"tags": {"p1": [["drift"]]}})
    assert response.status_code == 403
    assert "height" in response.json()["message"]
    assert grid.snapshot() == before


def test_a_model_is_used_only_with_what_it_was_trained_for(
    client: PlainClient, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(client)
    train(client)

    def refused() -> None:
        for path, body in ((f"{EVALUATE}/validations", {}), (PREDICT, NEW_DATA)):
            response = client("POST", path, body)
            assert response.status_code == 417
            assert "model of e1/r1 was trained for another alignment" in response.json()["message"]

    layers = client.ok("GET", EXPERIMENT)["model"]
    client.ok("PUT", EXPERIMENT, {"model": [{**layers[0], "activation": "relu"}]})
    refused()
    client.ok("PUT", EXPERIMENT, {"model": layers})
    client.ok("POST", f"{EVALUATE}/validations", {})

    with monkeypatch.context() as other:
        other.setattr(grid_double, "LAYOUT", LAYOUT.model_copy(update={"scaling": {"age": (6.0, 2.0)}}))
        client.ok("POST", f"{TRAIN}/alignments", {})
        refused()
        client.ok("POST", f"{TRAIN}/models", {})
        client.ok("POST", f"{EVALUATE}/validations", {})
    # Other rows alone do not matter.
    train(client)
    monkeypatch.setattr(grid_double, "LAYOUT", LAYOUT.model_copy(update={"counts": {"target": 90}}))
    client.ok("POST", f"{TRAIN}/alignments", {})
    client.ok("POST", f"{EVALUATE}/validations", {})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("align", f"{TRAIN}/alignments", {}),
        ("train", f"{TRAIN}/models", {}),
        ("infer", f"{EVALUATE}/validations", {}),
        ("infer", PREDICT, NEW_DATA),
    ],
)
def test_failures_store_nothing(client: PlainClient, grid: Grid, method: str, path: str, body: dict) -> None:
    register(client)
    train(client)
    before = grid.snapshot()
    grid.engine.failing[method] = GridFailure("worker_2 did not answer at 172.18.0.4:5000.")
    response = client("POST", path, body)
    assert response.status_code == 417
    assert response.json() == {
        "apiVersion": "0.1.0",
        "success": 0,
        "status": 417,
        "message": "worker_2 did not answer at 172.18.0.4:5000.",
        "data": [],
    }
    grid.engine.failing[method] = ValueError("a defect: /secret/path")
    response = client("POST", path, body)
    assert (response.status_code, response.json()["message"]) == (500, "Internal error, see the TTP's log.")
    assert "secret" not in response.text
    assert grid.snapshot() == before
    grid.engine.failing.clear()
    assert client("POST", path, body).is_success


def test_each_model_is_stored_before_the_next_begins(client: PlainClient, grid: Grid) -> None:
    register(client)
    client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r2"})
    client.ok("POST", f"{TRAIN}/alignments", {})
    grid.engine.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(client, "POST", f"{TRAIN}/models", {})
        _until(lambda: grid.engine.inside == 1)
        grid.engine.gate.set()
        _until(lambda: len(grid.engine.jobs) == 3)
        assert training.result().is_success
    assert len(client.ok("GET", f"{TRAIN}/models")) == 2


def test_one_job_at_a_time_and_other_requests_meanwhile(client: PlainClient, grid: Grid) -> None:
    register(client)
    client.ok("POST", f"{TRAIN}/alignments", {})
    grid.engine.gate.clear()
    # More than there are threads that answer requests.
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(PlainClient(grid.url), "POST", f"{TRAIN}/models", {}) for _ in range(50)]
        _until(lambda: grid.engine.inside == 1)
        assert client.ok("GET", RUN)["rounds"] == 2
        client.ok("PUT", RUN, {"rounds": 3})
        grid.engine.gate.set()
        assert all(found.result().is_success for found in waiting)
    assert grid.engine.peak == 1
    assert len(client.ok("GET", f"{TRAIN}/models")) == 1


def test_a_project_deleted_during_its_job(client: PlainClient, grid: Grid) -> None:
    register(client)
    client.ok("POST", f"{TRAIN}/alignments", {})
    grid.engine.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(PlainClient(grid.url), "POST", f"{TRAIN}/models", {})
        _until(lambda: grid.engine.inside == 1)
        client.ok("DELETE", PROJECT)
        refused = training.result()
        assert refused.status_code == 409
        assert "Project (collaboration 'c1', project 'p1') was deleted." in refused.text
    assert grid.snapshot()["Model"] == []


def test_nothing_is_aligned_without_auto_align(client: PlainClient, grid: Grid) -> None:
    register(client)
    response = client("POST", f"{TRAIN}/alignments", {"auto_align": False, "auto_fix": False})
    assert (response.status_code, response.json()["data"], grid.engine.jobs) == (201, [], [])
    # The caller vouches for the data then.
    client.ok("POST", f"{TRAIN}/models", {"auto_align": False})
    assert grid.engine.jobs[-1][1].parties[0].alignment is None


def test_no_job_starts_while_another_process_holds_the_grid(client: PlainClient, grid: Grid) -> None:
    register(client)
    train(client)
    with exclusive(grid.root / "jobs.lock"):
        refused = client("POST", f"{TRAIN}/models", {})
        assert (refused.status_code, refused.json()["status"]) == (409, 409)
    client.ok("POST", f"{TRAIN}/models", {})


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
