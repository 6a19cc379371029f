"""A federated cycle as the original's notebooks call it, by a client that knows only the original's rules.

No trailing slash, JSON bodies, `status` fields and `data` arrays; nothing of the Driver is used.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from conftest import CONTAINERS, ROOT, playbook

TTP = "http://127.0.0.1:5000/ttp"
C, P, E, R = "contract", "diabetes", "linear", "run_1"
EXAMPLE = ROOT / "examples" / "diabetes"
WORKERS = ("worker_1", "worker_2")


def call(verb: str, path: str, body: Any = None, status: int = 200) -> Any:
    answer = requests.request(verb, f"{TTP}/{path}", json=body, timeout=300)
    assert answer.status_code == status, answer.text
    reply = answer.json()
    assert set(reply) == {"apiVersion", "success", "status", "method", "params", "data"}, reply
    assert (reply["apiVersion"], reply["success"], reply["status"]) == ("0.1.0", 1, status)
    return reply


def tag(number: int, meta: str) -> list[list[str]]:
    return [["diabetes", "dataset", f"data{number}", meta]]


def test_the_whole_call_sequence() -> None:
    hyperparameters = json.loads((EXAMPLE / "hyperparameters.json").read_text())
    project = f"collaborations/{C}/projects/{P}"

    reply = call("POST", "connect/collaborations", {"collab_id": C}, 201)
    assert reply["method"] == "collaborations.post" and reply["data"]["key"] == {"collab_id": C}
    incentives: dict[str, list[str]] = {"tier_1": [], "tier_2": []}
    body = {"collab_id": C, "project_id": P, "action": "regress", "incentives": incentives}
    call("POST", f"connect/collaborations/{C}/projects", body, 201)
    model = json.loads((EXAMPLE / "architecture.json").read_text())
    call("POST", f"connect/{project}/experiments", {"expt_id": E, "model": model}, 201)
    run = call("POST", f"connect/{project}/experiments/{E}/runs", {"run_id": R, **hyperparameters, "rounds": 2}, 201)
    assert run["data"]["doc_id"] and run["data"]["kind"] == "Run"
    for number, worker in enumerate(WORKERS, 1):
        call("POST", "connect/participants", {"id": worker, "category": None, "summary": None}, 201)
        absent = requests.get(f"{TTP}/connect/{project}/participants/{worker}/registration", timeout=30)
        assert absent.status_code == 404 and absent.json().get("status") != 200
        address = CONTAINERS[f"synb_worker_{number}"]
        node = {"host": address, "port": 8020, "f_port": 5000, "log_msgs": True, "verbose": True}
        role = "host" if number == 1 else "guest"
        body = {"role": role, "n_count": 1, "node_0": node}
        call("POST", f"connect/{project}/participants/{worker}/registration", body, 201)
        tags = {"train": tag(number, "train"), "evaluate": tag(number, "evaluate"), "predict": []}
        call("POST", f"connect/{project}/participants/{worker}/registration/tags", tags, 201)

    flags = {"dockerised": True, "verbose": True, "log_msgs": True}
    alignments = call("POST", f"train/{project}/alignments", {"auto_align": True, "auto_fix": True}, 201)
    assert alignments["method"] == "alignments.post" and len(alignments["data"]) == 2
    for record in alignments["data"]:
        assert set(record["train"]) == {"X", "y"} and record["key"]["participant_id"] in WORKERS
    models = call("POST", f"train/{project}/models/{E}/{R}", {"auto_align": True, **flags})
    assert isinstance(models["data"], list) and len(models["data"]) == 1
    assert set(models["data"][0]) >= {"global", "local_1", "local_2"}
    assert models["data"][0]["global"]["path"].endswith(f"{C}/{P}/{E}/{R}/global_model.pt")
    assert call("GET", f"train/{project}/models/{E}/{R}")["data"][0]["global"]["origin"] == "ttp"
    validations = call("POST", f"evaluate/{project}/validations/{E}/{R}", {"auto_align": True, **flags})
    assert {record["key"]["participant_id"] for record in validations["data"]} == set(WORKERS)
    for record in validations["data"]:
        assert set(record["evaluate"]["statistics"]) >= {"R2", "MSE", "MAE"}
        assert record["evaluate"]["res_path"].endswith("evaluate/inference_statistics_evaluate.json")
    for number, worker in enumerate(WORKERS, 1):
        path = f"evaluate/participants/{worker}/collaborations/{C}/predictions/{P}/{E}/{R}"
        predictions = call("POST", path, {"tags": {P: tag(number, "predict")}, "auto_align": True, **flags})
        assert [record["key"]["participant_id"] for record in predictions["data"]] == [worker]
        assert predictions["data"][0]["predict"]["statistics"]

    relations = call("GET", f"connect/collaborations/{C}")["data"]["relations"]
    one, two = ("Project", "Experiment", "Run", "Model"), ("Registration", "Tag", "Validation", "Prediction")
    assert {kind: len(records) for kind, records in relations.items()} == dict.fromkeys(one, 1) | dict.fromkeys(two, 2)
    path = f"{TTP}/train/{project}/models/{E}/optimizations/"
    optimizations = requests.post(path, json={"search_space": {}}, timeout=30)
    assert optimizations.status_code == 403


def test_models_are_where_people_find_them() -> None:
    outputs = ROOT / "outputs/synergos_basic"
    folder = outputs / f"synb_ttp/{C}/{P}/{E}/{R}"
    assert (folder / "global_model.pt").is_file()
    history = json.loads((folder / "global_loss_history.json").read_text())
    assert list(history["train"]) == ["0", "1"]
    for number in (1, 2):
        statistics = outputs / f"synb_worker_{number}/{C}/{P}/{E}/{R}/predict/inference_statistics_predict.json"
        assert json.loads(statistics.read_text())


@pytest.mark.parametrize("example", ["breast_cancer", "diabetes"])
def test_the_demo_ends_with_a_model_better_than_chance(example: str) -> None:
    done = playbook("demo", "-e", f"demo_example={example}")
    assert done.rc == 0, done.output
    for word in ("federated", "central", "worker_1 alone", "worker_2 alone", "seconds".upper()):
        assert word in done.output


def test_the_demo_fails_where_the_model_is_no_better_than_chance() -> None:
    standstill = {"rounds": 1, "epochs": 1, "lr": 1e-9, "base_lr": 1e-9, "max_lr": 2e-9}
    done = playbook("demo", "-e", json.dumps({"demo_parameters": standstill}))
    assert done.rc != 0
    assert "chance" in done.text
