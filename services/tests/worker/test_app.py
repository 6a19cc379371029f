"""The REST interface with the codes and shapes of the original, over real files."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from heart import HEART, Write
from pictures import draw, numbered

from synergos.errors import Invalid, NotFound
from synergos.federation.sessions import Sessions
from synergos.jobs import Tags
from synergos.worker.app import create_app

POLL = "/worker/poll/c/p"


class Worker:
    """A worker and the requests that the orchestrator sends to it."""

    def __init__(self, tmp_path: Path, minimum_rows: int = 1) -> None:
        self.outputs = tmp_path / "outputs"
        self.sessions = Sessions()
        self.http = TestClient(create_app(tmp_path / "data", self.outputs, self.sessions, minimum_rows))

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
        layout={**names, "scaling": {"age": [50, 10]}},
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


def test_polling_again_needs_no_work_until_a_file_changes(worker: Worker, heart_tags: Tags, root: Path) -> None:
    before = worker.poll(heart_tags)
    reply = worker.ask(heart_tags)
    assert (reply.status_code, reply.json()["data"]) == (201, {"jobs": 0})

    path = root / "heart/data1/predict/data.csv"
    path.write_text(path.read_text() + "41,200.0,F,0,1\n")
    after = worker.poll(heart_tags)
    rows = [reply["metadata"]["predict"]["src_count"] for reply in (before, after)]
    assert rows == [12, 13]
    assert worker.ask(heart_tags, action="regress").status_code == 202


def test_a_failed_poll_says_why_and_can_be_repeated(worker: Worker, heart_tags: Tags, root: Path) -> None:
    path = root / "heart/data1/evaluate/data.csv"
    good = path.read_text()
    path.write_text("age\n1\n")
    assert worker.ask(heart_tags).status_code == 202
    for _ in range(2):
        reply = worker.wait(heart_tags)
        assert reply.status_code == 417
        assert "heart/data1/evaluate/data.csv and its schema.json differ" in reply.json()["message"]
    assert not list(worker.outputs.rglob("*"))
    path.write_text(good)
    assert worker.poll(heart_tags)["metadata"]["evaluate"]["src_count"] == 20


def test_a_failed_poll_leaves_the_earlier_one_usable(worker: Worker, heart_tags: Tags, write: Write) -> None:
    worker.poll(heart_tags)
    bad = heart_tags.model_copy(update={"predict": [write("heart/bad", "", HEART)]})
    assert worker.ask(bad).status_code == 202
    assert worker.wait(bad).status_code == 417
    assert worker.answer(heart_tags).status_code == 200
    assert worker.initialise(heart_tags).status_code == 201
    assert worker.initialise(bad, "c/p/e/r2").status_code == 417


def test_an_unexpected_failure_is_not_shown_in_detail(
    worker: Worker, heart_tags: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inner detail")

    with monkeypatch.context() as patch:
        patch.setattr("synergos.worker.datasets.prepare", fail)
        worker.ask(heart_tags)
        reply = worker.wait(heart_tags)
    assert reply.status_code == 417
    assert "see the worker's log" in reply.json()["message"] and "inner" not in reply.text
    worker.poll(heart_tags)


def test_other_tags_are_still_to_be_polled(worker: Worker, heart_tags: Tags) -> None:
    worker.poll(heart_tags)
    other = heart_tags.model_copy(update={"predict": []})
    assert worker.answer(other).status_code == 406
    assert worker.answer(None).status_code == 200
    assert worker.initialise(other).status_code == 406


def test_data_that_changed_is_still_to_be_polled(worker: Worker, heart_tags: Tags, tmp_path: Path) -> None:
    worker.poll(heart_tags)
    table = next((tmp_path / "data").joinpath(*heart_tags.train[0]).glob("*.csv"))
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    reply = worker.answer(heart_tags)
    assert reply.status_code == 406 and "changed" in reply.json()["message"]
    assert worker.initialise(heart_tags).status_code == 201
    worker.poll(heart_tags)


BAD_REQUESTS: list[tuple[str, str, Any, int, str]] = [
    ("GET", POLL, None, 404, "c/p was never polled"),
    ("GET", POLL + "/", {"tags": {"train": "x"}}, 417, "tags.train"),
    ("POST", POLL, {}, 417, "action: required"),
    ("POST", POLL, {"action": "cluster", "tags": {}}, 417, "'regress' or 'classify'"),
    ("POST", POLL, {"action": "regress", "tags": {"train": [["nothing", "here"]]}}, 417, "'nothing/here' fits no data"),
    ("POST", POLL, {"action": "regress", "tags": {"train": [["..", ".."]]}}, 417, "token '..'"),
    ("POST", POLL, {"action": "regress", "tags": {}}, 417, "No train tag"),
    ("POST", POLL, "{", 400, "not JSON"),
    ("POST", "/worker/poll/c/%2e%2e", {"action": "regress", "tags": {}}, 417, "project_id '..'"),
    ("POST", "/worker/poll/c/a%0ab", {"action": "regress", "tags": {}}, 417, "project_id"),
    ("POST", "/worker/poll/c", {"action": "regress", "tags": {}}, 404, "/worker/poll/c"),
    ("DELETE", POLL, None, 405, "GET, POST"),
    ("POST", "/worker/align/c/p", {"tags": {}, "alignments": {}}, 404, "never polled"),
    ("POST", "/worker/align/c/p", {"alignments": {}}, 417, "tags: required"),
    ("POST", "/worker/initialise/c/p/e/r", {"id": "w", "action": "regress", "tags": {}}, 404, "never polled"),
    ("POST", "/worker/initialise/c/p/e/r", {"id": "w", "tags": {}}, 417, "action: required"),
    ("POST", "/worker/initialise/c/p/preprocessing/r", {"id": "w", "action": "regress", "tags": {}}, 417, "reserved"),
    (
        "POST",
        "/worker/initialise/c/p/e/r",
        {"id": "w", "action": "regress", "tags": {}, "layout": {"scaling": {"a": [0, 0]}}},
        417,
        "greater than 0",
    ),
    ("POST", "/worker/predict/c/p/e/r", {"inferences": {}}, 404, "never polled"),
    ("POST", "/worker/predict/c/p/e/r", {"inferences": {"train": {"y_pred": []}}}, 417, "y_score: required"),
    ("POST", "/worker/predict/c/p/e/r", {"inferences": {"later": {"y_pred": [], "y_score": []}}}, 417, "'evaluate'"),
    ("POST", "/worker/terminate/c/p/e/r", None, 404, "never polled"),
    ("POST", "/worker/terminate/c/p/e/r%20r/x", None, 404, "Nothing is served"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "fragment"), BAD_REQUESTS)
def test_bad_requests(worker: Worker, method: str, path: str, body: Any, status: int, fragment: str) -> None:
    raw = (
        {"content": body, "headers": {"Content-Type": "application/json"}} if isinstance(body, str) else {"json": body}
    )
    reply = worker.http.request(method, path, **raw)
    assert reply.status_code == status, reply.text
    assert fragment in reply.json()["message"], reply.text
    assert "Traceback" not in reply.text
    assert not worker.outputs.exists()


def test_what_does_not_fit_a_polled_project(worker: Worker, heart_tags: Tags) -> None:
    worker.poll(heart_tags)
    for fields, status, fragment in [
        ({"action": "regress"}, 417, "was polled for classify, not for regress"),
        ({"layout": {"X": ["age"], "y": ["target_0", "target_1"]}}, 403, "does not know: chol, cp, sex."),
        ({"layout": {"shape": [1, 2, 3, 4]}}, 417, "layout.shape"),
    ]:
        reply = worker.initialise(heart_tags, **fields)
        assert reply.status_code == status and fragment in reply.json()["message"], reply.text
    assert worker.sessions.keys() == []

    for path in ("predict", "terminate"):
        reply = worker.http.post(f"/worker/{path}/c/p/e/r", json={"inferences": {}})
        assert reply.status_code == 404 and "initialise" in reply.json()["message"]

    worker.initialise(heart_tags)
    for meta, pred, score, fragment in [
        ("evaluate", [0] * 19, [[0.5]] * 19, "has 20 rows"),
        ("evaluate", [0] * 20, [[0.5, 0.5]] * 20, "20 x 1 scores"),
        ("evaluate", [2] * 20, [[0.5]] * 20, "indexes from 0 to 1"),
        ("evaluate", [0.5] * 20, [[0.5]] * 20, "indexes from 0 to 1"),
        ("evaluate", [None] * 20, [[0.5]] * 20, "not finite"),
        ("evaluate", ["a"] * 20, [[0.5]] * 20, "lists of numbers"),
        ("evaluate", [[0], [0, 1]] * 10, [[0.5]] * 20, "lists of numbers"),
    ]:
        body = {"inferences": {meta: {"y_pred": pred, "y_score": score}}}
        reply = worker.http.post("/worker/predict/c/p/e/r", json=body)
        assert reply.status_code == 417 and fragment in reply.json()["message"], reply.text
    assert not (worker.outputs / "c/p/e").exists()


def test_projects_and_runs_are_independent(worker: Worker, heart_tags: Tags, write: Write) -> None:
    schema = {"a": "float64", "target": "float64"}
    numbers = Tags(train=[write("n/train", "a,target\n1,1.5\n2,2.5\n", schema)])
    assert worker.ask(heart_tags).status_code == 202
    assert worker.ask(numbers, "/worker/poll/c/q", "regress").status_code == 202
    assert worker.wait(heart_tags).status_code == worker.wait(numbers, "/worker/poll/c/q").status_code == 200

    assert worker.initialise(heart_tags, "c/p/e/r1").status_code == 201
    assert worker.initialise(heart_tags, "c/p/e/r2").json()["data"]["in_progress"] == ["('e', 'r1')", "('e', 'r2')"]
    assert worker.initialise(numbers, "c/q/e/r1", action="regress").status_code == 201
    assert worker.initialise(heart_tags, "c/p/e/r1", token="new").status_code == 200
    assert worker.sessions.get(("c", "p", "e", "r1")).token == "new"

    assert worker.http.post("/worker/terminate/c/p/e/r1").status_code == 200
    assert worker.sessions.keys() == [("c", "p", "e", "r2"), ("c", "q", "e", "r1")]
    assert worker.http.post("/worker/terminate/c/p/e/r1").status_code == 404
    result = worker.sessions.get(("c", "q", "e", "r1")).record("train", np.array([1.5, 3.5]), np.array([[1.5], [3.5]]))
    assert result["statistics"] == {"R2": -1.0, "MSE": 0.5, "MAE": 0.5}


def test_a_restarted_worker_knows_its_projects(worker: Worker, heart_tags: Tags, tmp_path: Path) -> None:
    polled = worker.poll(heart_tags)
    worker.initialise(heart_tags)
    session = worker.sessions.get(("c", "p", "e", "r"))
    result = session.record("predict", np.zeros(12, dtype=np.int64), np.full((12, 1), 0.25))

    again = Worker(tmp_path)
    assert again.ask(heart_tags).status_code == 201
    assert again.answer(heart_tags).json()["data"] == polled
    assert again.http.post("/worker/predict/c/p/e/r", json={"inferences": {}}).status_code == 404
    assert again.initialise(heart_tags, "c/p/e/r2").json()["data"]["connections"] == ["('e', 'r')", "('e', 'r2')"]
    record = json.loads((again.outputs / "c/p/operations.json").read_text())
    assert record["results"] == {"('e', 'r')": {"predict": result}}
    assert {"key", "created_at", "tags", "headers", "schemas", "metadata", "exports", "alignments"} <= record.keys()
    tree = {path.relative_to(again.outputs / "c/p").as_posix() for path in again.outputs.rglob("*") if path.is_file()}
    metas = ("train", "evaluate", "predict")
    assert tree == {
        "operations.json",
        "preprocessing/catalogue.json",
        *(f"preprocessing/preprocessed_{side}_{meta}.npy" for side in "Xy" for meta in metas),
        *(f"preprocessing/combined_dataframe_{meta}.csv" for meta in metas),
        *(f"e/r/predict/inference_{kind}_predict.txt" for kind in ("predictions", "scores")),
        "e/r/predict/inference_statistics_predict.json",
        "e/r/predict/inference_results_predict.csv",
    }


def test_a_damaged_record_is_polled_anew(worker: Worker, heart_tags: Tags) -> None:
    worker.poll(heart_tags)
    (worker.outputs / "c/p/operations.json").write_text("{")
    assert worker.answer(heart_tags).status_code == 404
    worker.poll(heart_tags)
    (worker.outputs / "c/p/preprocessing/preprocessed_X_train.npy").unlink()
    reply = worker.initialise(heart_tags)
    assert reply.status_code == 417 and "poll again" in reply.json()["message"]
    worker.poll(heart_tags)
    assert worker.initialise(heart_tags).status_code == 201


def test_unlabelled_predictions_have_files_but_no_statistics(worker: Worker, heart_tags: Tags, write: Write) -> None:
    tags = heart_tags.model_copy(update={"predict": [write("heart/new", "age,chol,sex,cp\n50,200,F,1\n", HEART)]})
    assert worker.poll(tags)["headers"]["predict"] == {"X": ["age", "chol", "cp_1", "sex_F"], "y": []}
    names = {"X": worker.answer(tags).json()["data"]["headers"]["train"]["X"], "y": ["target_0", "target_1"]}
    spacers = {"train": {"X": []}, "evaluate": {"X": []}, "predict": {"X": [2, 4, 5, 7], "y": []}}
    assert worker.initialise(tags, alignments=spacers, layout=names).status_code == 201
    session = worker.sessions.get(("c", "p", "e", "r"))
    assert session.data["predict"].y is None
    result = session.record("predict", np.array([1]), np.array([[0.75]]))
    assert result["statistics"] == {}
    csv = (worker.outputs / "c/p/e/r/predict/inference_results_predict.csv").read_text()
    assert csv == "file,row,prediction,score\nheart/new/data.csv,0,1,0.75\n"


def test_stored_alignment_serves_an_initialisation_without_one(worker: Worker, heart_tags: Tags) -> None:
    polled = worker.poll(heart_tags)
    names = {"X": polled["headers"]["train"]["X"], "y": ["target_0", "target_1", "target_2"]}
    alignments = {meta: {"X": [], "y": [2]} for meta in ("train", "evaluate", "predict")}
    layout = {**names, "scaling": {"age": [40, 2]}}
    body = {"tags": heart_tags.model_dump(), "alignments": alignments, "layout": layout}
    reply = worker.http.post("/worker/align/c/p/", json=body)
    assert (reply.status_code, reply.json()["data"]["alignments"]) == (200, alignments)
    assert worker.initialise(heart_tags, alignments=None).status_code == 201
    y = worker.sessions.get(("c", "p", "e", "r")).data["train"].y
    assert y is not None and y.dtype == np.int64
    body["layout"] = {"X": ["age"], "y": []}
    assert worker.http.post("/worker/align/c/p/", json=body).status_code == 403


def test_outputs_that_cannot_be_written_are_named(tmp_path: Path, heart_tags: Tags) -> None:
    worker = Worker(tmp_path)
    worker.outputs.write_text("a file where the folder should be")
    worker.ask(heart_tags)
    reply = worker.wait(heart_tags)
    assert reply.status_code == 417
    assert f"cannot write {worker.outputs}/c/p" in reply.json()["message"]


def test_health_tells_what_is_going_on(worker: Worker, heart_tags: Tags) -> None:
    worker.poll(heart_tags)
    worker.initialise(heart_tags)
    for path in ("/health", "/health/"):
        assert worker.http.get(path).json() == {"status": "ok", "jobs": 0, "sessions": 1}


def test_rows_never_leave(worker: Worker, heart_tags: Tags, root: Path) -> None:
    reply = json.dumps(worker.poll(heart_tags))
    cholesterol = {line.split(",")[1] for line in (root / "heart/data1/train/data.csv").read_text().splitlines()[1:]}
    assert not [value for value in cholesterol if value in reply]


def test_a_full_disk_leaves_the_earlier_poll_usable(
    worker: Worker, heart_tags: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    worker.poll(heart_tags)
    fewer = heart_tags.model_copy(update={"predict": []})
    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", full)
        worker.ask(fewer)
        reply = worker.wait(fewer)
    assert reply.status_code == 417
    assert "c/p/preprocessing: No space left on device. Free space" in reply.json()["message"]
    assert [path.name for path in (worker.outputs / "c/p").iterdir() if path.name.startswith(".")] == []
    assert worker.ask(heart_tags).status_code == 201
    assert worker.initialise(heart_tags).status_code == 201


def test_a_cycle_with_images(worker: Worker, root: Path) -> None:
    tags = Tags(train=[numbered(root, "s/train", 6)], predict=[numbered(root, "s/predict", 2, size=(3, 3))])
    polled = worker.poll(tags)
    assert [polled["metadata"][meta]["pixel_height"] for meta in ("train", "predict")] == [4, 3]
    assert worker.ask(tags).status_code == 201
    draw(4, 5, 99).save(root / "s/predict/0.png")
    assert worker.poll(tags)["metadata"]["predict"]["pixel_height"] == 4

    layout = {"datatype": "image", "shape": [1, 4, 5], "y": ["target_a", "target_b"]}
    assert worker.initialise(tags, layout=layout).status_code == 201
    session = worker.sessions.get(("c", "p", "e", "r"))
    assert session.data["predict"].X.shape == (2, 1, 4, 5)
    session.record("predict", np.array([1, 0]), np.array([[0.75], [0.25]]))
    csv = (worker.outputs / "c/p/e/r/predict/inference_results_predict.csv").read_text()
    assert csv == "file,row,prediction,score,target\ns/predict/0.png,0,b,0.75,a\ns/predict/1.png,1,a,0.75,b\n"
    layout["shape"] = [3, 4, 5]
    reply = worker.initialise(tags, layout=layout)
    assert reply.status_code == 403 and "use_grayscale" in reply.json()["message"]


def test_a_cycle_with_texts(worker: Worker, write: Write) -> None:
    metadata = {"datatype": "text", "operations": {}}
    train = write("t/train", "text,target\n" + "sun shines,warm\nsnow falls,cold\n" * 3, None, metadata)
    predict = write("t/predict", "text\nthe sun\nsnow and hail\n", None, metadata)
    tags = Tags(train=[train], predict=[predict])
    polled = worker.poll(tags)
    assert polled["headers"]["predict"] == {"X": ["#other", "fall", "shine", "snow", "sun"], "y": []}
    layout = {"datatype": "text", "X": ["#other", "snow", "sun"], "y": ["target_cold", "target_warm"]}
    assert worker.initialise(tags, layout=layout).status_code == 201
    session = worker.sessions.get(("c", "p", "e", "r"))
    assert (session.data["predict"].X > 0).tolist() == [[False, False, True], [True, True, False]]
    session.record("predict", np.array([1, 0]), np.array([[0.75], [0.25]]))
    csv = (worker.outputs / "c/p/e/r/predict/inference_results_predict.csv").read_text()
    assert csv == "file,row,prediction,score\nt/predict/data.csv,0,warm,0.75\nt/predict/data.csv,1,cold,0.75\n"


def test_a_disk_that_fills_while_images_are_written(worker: Worker, root: Path) -> None:
    small = Tags(train=[numbered(root, "s/small", 6)])
    large = Tags(train=[numbered(root, "s/large", 6, size=(30, 30))])
    worker.poll(small)
    assert worker.initialise(small, layout={"shape": [1, 4, 5]}).status_code == 201
    before = {path: path.read_bytes() for path in worker.outputs.rglob("*") if path.is_file()}
    # A file that may not grow beyond the limit fails as on a full disk.
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, unlimited[1]))
    try:
        assert worker.ask(large).status_code == 202
        polled = worker.wait(large)
        padded = worker.initialise(small, "c/p/e/r2", layout={"shape": [1, 50, 50]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert polled.status_code == padded.status_code == 417
    folder = worker.outputs / "c/p"
    assert polled.json()["message"].startswith(
        f"The worker cannot write {folder}/.preprocessing.new/preprocessed_X_train"
    )
    assert padded.json()["message"].startswith(f"The worker cannot write {folder}/preprocessing/aligned_")
    assert {path: path.read_bytes() for path in worker.outputs.rglob("*") if path.is_file()} == before
    assert worker.initialise(small, "c/p/e/r3", layout={"shape": [1, 50, 50]}).status_code == 201


def test_results_that_cannot_be_written_change_nothing(worker: Worker, heart_tags: Tags) -> None:
    worker.poll(heart_tags)
    worker.initialise(heart_tags)
    session = worker.sessions.get(("c", "p", "e", "r"))
    session.record("predict", np.zeros(12, dtype=np.int64), np.full((12, 1), 0.25))
    before = {path: path.read_bytes() for path in worker.outputs.rglob("*") if path.is_file()}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, unlimited[1]))
    try:
        with pytest.raises(Invalid, match=r"cannot write .*/c/p/e/r/predict/inference_predictions_predict.txt"):
            session.record("predict", np.ones(12, dtype=np.int64), np.full((12, 1), 0.75))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert {path: path.read_bytes() for path in worker.outputs.rglob("*") if path.is_file()} == before
