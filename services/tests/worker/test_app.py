"""The REST interface with the codes and shapes of the original, over real files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from heart import HEART

from synergos.errors import NotFound
from synergos.federation.sessions import Sessions
from synergos.jobs import Tags
from synergos.worker.app import create_app

POLL = "/worker/poll/c/p"


class Worker:
    """A worker and the requests that the orchestrator sends to it."""

    def __init__(self, tmp_path: Path) -> None:
        self.outputs = tmp_path / "outputs"
        self.sessions = Sessions()
        self.http = TestClient(create_app(tmp_path / "data", self.outputs, self.sessions))

    def ask(self, tags: Tags, path: str = POLL, action: str = "classify") -> Any:
        return self.http.post(path, json={"action": action, "tags": tags.model_dump()})

    def answer(self, tags: Tags | None, path: str = POLL) -> Any:
        return self.http.request("GET", path, json={"tags": tags.model_dump()} if tags else None)

    def wait(self, tags: Tags, path: str = POLL) -> Any:
        deadline = time.monotonic() + 30
        while (reply := self.answer(tags, path)).status_code == 406 and time.monotonic() < deadline:
            time.sleep(0.02)
        return reply

    def poll(self, tags: Tags, path: str = POLL, action: str = "classify") -> Any:
        assert self.ask(tags, path, action).status_code == 202
        return self.wait(tags, path).json()["data"]

    def initialise(self, tags: Tags, combination: str = "c/p/e/r", **fields: Any) -> Any:
        body = {"id": "worker_1", "host": "0.0.0.0", "port": 8020, "log_msgs": True, "verbose": True}
        body |= {"action": "classify", "tags": tags.model_dump(), "alignments": {}, "token": "t", **fields}
        return self.http.post(f"/worker/initialise/{combination}", json=body)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    yield Worker(tmp_path)


def test_a_cycle_from_poll_to_results(worker: Worker, heart_tags: Tags) -> None:
    reply = worker.ask(heart_tags)
    assert reply.status_code == 202
    assert reply.json() == {
        "apiVersion": "0.1.0",
        "success": 1,
        "status": 202,
        "method": "poll.post",
        "params": {"collab_id": "c", "project_id": "p"},
        "data": {"jobs": 1},
    }
    polled = worker.wait(heart_tags).json()["data"]
    assert polled["headers"]["evaluate"] == {
        "X": ["age", "chol", "cp_0", "cp_1", "cp_2", "cp_3", "sex_F", "sex_M"],
        "y": ["target_0", "target_1"],
    }
    assert polled["schemas"]["train"] == HEART
    assert set(polled["metadata"]["train"]["features"]["num_variables"]["age"]) == {"datatype", "count", "mean", "std"}

    names = {"X": [*polled["headers"]["train"]["X"][:2], "cp_9", *polled["headers"]["train"]["X"][2:]]}
    names = {"X": sorted(names["X"]), "y": ["target_0", "target_1", "target_2"]}
    spacers = {"X": [names["X"].index("cp_9")], "y": [2]}
    reply = worker.initialise(
        heart_tags,
        alignments=dict.fromkeys(("train", "evaluate", "predict"), spacers),
        names=names,
        scaling={"age": [50, 10]},
    )
    assert reply.status_code == 201
    assert reply.json()["data"] == {
        "doc_id": "1",
        "kind": "Metadata",
        "key": {"collab_id": "c", "project_id": "p"},
        "is_live": True,
        "in_progress": ["('e', 'r')"],
        "connections": ["('e', 'r')"],
    }
    session = worker.sessions.get(("c", "p", "e", "r"))
    assert (session.token, session.participant_id, session.action) == ("t", "worker_1", "classify")
    split = session.data["evaluate"]
    assert split.X.shape == (20, 9) and split.X.dtype == np.float32
    assert split.y is not None and split.y.shape == (20,) and split.y.dtype == np.int64
    assert not split.X[:, spacers["X"][0]].any()

    scores = np.eye(3)[split.y]
    body = {"action": "classify", "tags": {}, "alignments": {}}
    body["inferences"] = {"evaluate": {"y_pred": split.y.reshape(-1, 1).tolist(), "y_score": scores.tolist()}}
    reply = worker.http.post("/worker/predict/c/p/e/r", json=body)
    assert reply.status_code == 200
    result = reply.json()["data"]["results"]["('e', 'r')"]["evaluate"]
    folder = worker.outputs / "c/p/e/r/evaluate"
    assert result["res_path"] == str(folder / "inference_statistics_evaluate.json")
    assert json.loads(Path(result["res_path"]).read_text()) == result["statistics"]
    assert result["statistics"]["overall_accuracy"] == 1.0
    assert result["statistics"]["labels"] == ["0", "1", "2"]
    assert np.loadtxt(folder / "inference_predictions_evaluate.txt").tolist() == split.y.tolist()
    assert np.loadtxt(folder / "inference_scores_evaluate.txt").shape == (20, 3)
    lines = (folder / "inference_results_evaluate.csv").read_text().splitlines()
    assert lines[0] == "file,row,prediction,score,target"
    assert lines[1] == f"heart/data1/evaluate/data.csv,0,{split.y[0]},1.0,{split.y[0]}"

    reply = worker.http.post("/worker/terminate/c/p/e/r", json={})
    assert (reply.status_code, reply.json()["data"]["is_live"]) == (200, False)
    with pytest.raises(NotFound):
        worker.sessions.get(("c", "p", "e", "r"))
