"""What is kept for MLflow, and that each thing gets there once whatever is cut off."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow as mlflow_client
import pandas as pd
import pytest
import torch
from mlflow_server import URI, Server, command

from synergos.federation.layers import Network
from synergos.jobs import Alignment, Layout, Node, ParticipantRound, Party, RoundProgress, Tags, TrainJob, TrainResult
from synergos.orchestrator.database import Database
from synergos.tracking import outbox
from synergos.tracking.outbox import Item, Outbox
from synergos.tracking.sender import Away, Sender
from synergos.tracking.tracker import Tracker, Training

MODEL = [{"l_type": "Linear", "structure": {"in_features": 2, "out_features": 1}, "activation": "sigmoid"}]
LAYOUT = Layout(X=["age", "sex_1"], y=["target_no", "target_a/b"], scaling={"age": (5.0, 2.0)})
LOSSES = {"train": {"0": 0.5, "1": 0.25}, "evaluate": {"0": 0.75, "1": 0.5}}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path / 'database.db'}")
    found.migrate()
    yield found
    found.close()


def job(expt_id: str, **parameters: Any) -> TrainJob:
    parties = [
        Party(
            node=Node(participant_id=name, host="127.0.0.1", command_port=1, data_port=2),
            tags=Tags(train=[["x"]]),
            alignment=Alignment(layout=LAYOUT),
        )
        for name in ("one", "the other")
    ]
    ids = {"collab_id": "c", "project_id": "p", "expt_id": expt_id, "run_id": "r 1"}
    return TrainJob(**ids, action="classify", parties=parties, model=MODEL, parameters={"lr": 0.5, **parameters})


def progress(number: int) -> RoundProgress:
    return RoundProgress(
        round=number,
        rounds=2,
        seconds=0.1,
        train_loss=LOSSES["train"][str(number - 1)],
        previous_evaluate_loss=LOSSES["evaluate"]["0"] if number > 1 else None,
        participants={name: ParticipantRound(loss=number, rows=5, seconds=0.1) for name in ("one", "the other")},
    )


def finish(tracker: Tracker, training: Training, order: TrainJob, database: Database, folder: Path) -> None:
    """Write the files of a run and note its end, as the TTP does."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    torch.save(Network(MODEL).state_dict(), folder / "global_model.pt")
    (folder / "global_loss_history.json").write_text(json.dumps(LOSSES))
    found = {"path": str(folder / "global_model.pt"), "loss_history": str(folder / "global_loss_history.json")}
    tracker.flush()
    with database.write() as records:
        result = TrainResult(paths={"global": {**found, "rounds": 2, "best_round": 2}})
        tracker.trained(training, result, order, records)


def test_killed_between_sending_and_deleting(
    mlflow: Server, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, tracker = job("again"), Tracker(database, URI)
    training = tracker.begin(order, "j1")
    for number in (1, 2):
        training.watch(progress(number))
    finish(tracker, training, order, database, tmp_path / "run")
    seen: set[int] = set()
    remove = Outbox.remove

    def killed_once(self: Outbox, items: Sequence[Item]) -> None:
        if fresh := {item.doc_id for item in items} - seen:
            seen.update(fresh)
            raise KeyboardInterrupt
        remove(self, items)

    monkeypatch.setattr(Outbox, "remove", killed_once)
    kills = 0
    while True:
        try:
            Sender(database, URI).send()
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills == 5  # start, points, model, tags, end
    [run] = mlflow.runs("c_>_p_>_again")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "r 1")
    for key, values in {
        "global_train_loss": [0.5, 0.25],
        "global_evaluate_loss": [0.75, 0.5],
        "the other_local_loss": [1, 2],
    }.items():
        points = mlflow.points(run, key)
        assert [(point.step, point.value) for point in points] == list(enumerate(values, 1))
    [logged] = mlflow.client.search_logged_models([run.info.experiment_id])
    assert [output.model_id for output in run.outputs.model_outputs] == [logged.model_id]
    assert not list(tmp_path.rglob("unsent"))
    mlflow_client.set_tracking_uri(URI)
    answer = mlflow_client.pyfunc.load_model(logged.model_uri).predict(pd.DataFrame({"sex_1": [1.0], "age": [7.0]}))
    torch.manual_seed(1)
    [[expected]] = Network(MODEL)(torch.tensor([[1.0, 1.0]])).tolist()
    assert answer["score_a/b"][0] == pytest.approx(expected, abs=1e-6)
    assert answer["prediction"][0] == ("a/b" if expected > 0.5 else "no")


def test_a_validation_counts_once_and_keys_are_usable(mlflow: Server, database: Database, tmp_path: Path) -> None:
    order, tracker = job("measured"), Tracker(database, URI)
    finish(tracker, tracker.begin(order, "j1"), order, database, tmp_path / "run")
    key = {"collab_id": "c", "project_id": "p", "expt_id": "measured", "run_id": "r 1"}
    first = {"labels": ["no", "a/b"], "TPs": [1, 2], "overall_accuracy": 0.5, "f_score": [float("nan"), 1.0]}
    for statistics in (first, first, {**first, "overall_accuracy": 0.75}):
        with database.write() as records:
            tracker.validated(key, {"the other": {"statistics": statistics}, "one": {"statistics": {}}}, 2, records)
    Sender(database, URI).send()
    [run] = mlflow.runs("c_>_p_>_measured")
    assert [point.value for point in mlflow.points(run, "the other_overall_accuracy")] == [0.5, 0.75]
    assert {key for key in run.data.metrics if "other" in key} == {
        "the other_TPs_class_no",
        "the other_TPs_class_a_b",
        "the other_overall_accuracy",
        "the other_f_score_class_a_b",
    }
    assert {point.step for point in mlflow.points(run, "the other_TPs_class_a_b")} == {2}


def test_what_does_not_fit_is_counted(mlflow: Server, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    order, tracker = job("full"), Tracker(database, URI)
    training = tracker.begin(order, "j1")
    with database.read() as records:
        monkeypatch.setattr(outbox, "LIMIT", Outbox(records).size() + 300)
    for number in (1, 2):
        training.watch(progress(number))
        tracker.flush()
    with database.write() as records:
        tracker.ended("j1", "FAILED", "a reason", records)
    Sender(database, URI).send()
    [run] = mlflow.runs("c_>_p_>_full")
    assert run.info.status == "FAILED" and run.data.tags["reason"] == "a reason"
    assert [point.step for point in mlflow.points(run, "global_train_loss")] == [1]
    assert int(run.data.tags["dropped_points"]) >= 4


def test_a_training_taken_up_again_repeats_nothing(mlflow: Server, database: Database) -> None:
    order = job("resumed")
    before = Tracker(database, URI)
    training = before.begin(order, "j1")
    training.watch(progress(1))
    before.flush()
    training.watch(progress(2))  # lost with the process
    after = Tracker(database, URI)
    training = after.begin(order, "j1")
    for number in (1, 2):
        training.watch(progress(number))
    after.flush()
    with database.write() as records:
        after.ended("j1", "KILLED", "called off", records)
    Sender(database, URI).send()
    [run] = mlflow.runs("c_>_p_>_resumed")
    assert [point.step for point in mlflow.points(run, "global_train_loss")] == [1, 2]
    assert run.info.status == "KILLED"


def test_rounds_that_come_late_count_once(mlflow: Server, database: Database) -> None:
    tracker = Tracker(database, URI, here=False)
    training = tracker.begin(job("late"), "j1")
    for number in (2, 1, 2):
        training.watch(progress(number))
        tracker.flush()
    with database.write() as records:
        tracker.ended("j1", "KILLED", "called off", records)
    assert training.track.rounds == 2
    Sender(database, URI).send()
    [run] = mlflow.runs("c_>_p_>_late")
    points = mlflow.points(run, "global_train_loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 0.5), (2, 0.25)]
    assert not [key for key in run.data.metrics if key.startswith("system/")]


def test_a_run_that_somebody_deleted_stops_no_other(mlflow: Server, database: Database) -> None:
    tracker = Tracker(database, URI)
    training = tracker.begin(job("deleted"), "j1")
    Sender(database, URI).send()
    [run] = mlflow.runs("c_>_p_>_deleted")
    subprocess.run(**command(mlflow.root, "reset"), check=True, capture_output=True)
    training.watch(progress(1))
    tracker.flush()
    tracker.begin(job("other"), "j2")
    Sender(database, URI).send()
    with database.read() as records:
        assert Outbox(records).count() == 0
    assert [each.info.run_name for each in mlflow.runs("c_>_p_>_other")] == ["r 1"]
    assert mlflow.runs("c_>_p_>_deleted") == [] and run.info.run_id


def test_a_server_that_refuses_everything_costs_nothing(database: Database) -> None:
    tracker = Tracker(database, "http://127.0.0.1:5599")
    training = tracker.begin(job("away"), "j1")
    with pytest.raises(Away):
        Sender(database, "http://127.0.0.1:5599").send()
    begin = time.perf_counter()
    for number in range(1000):
        training.watch(progress(1).model_copy(update={"round": number + 1}))
    assert (time.perf_counter() - begin) / 1000 < 0.0005
    tracker.flush()
    with database.read() as records:
        kinds = [item.kind for item in Outbox(records).first(10)]
    assert kinds == ["start", "metrics"]


def test_without_a_server_nothing_is_stored_or_loaded(tmp_path: Path) -> None:
    code = """
import pathlib, sys, threading
sys.path.append(sys.argv[2])
from grid_double import PlainClient, register, running
with running(pathlib.Path(sys.argv[1])) as grid:
    client = PlainClient(grid.url)
    register(client)
    for path in ("alignments", "models"):
        client.ok("POST", f"train/collaborations/c1/projects/p1/{path}", {})
    client.ok("POST", "evaluate/collaborations/c1/projects/p1/validations", {})
    assert "mlflow" not in sys.modules
    assert "mlflow" not in [thread.name for thread in threading.enumerate()]
"""
    double = Path(__file__).parents[1] / "orchestrator"
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(double)], check=True, timeout=120)
    [path] = tmp_path.rglob("*.db")
    with closing(sqlite3.connect(path)) as stored:
        assert stored.execute('SELECT (SELECT COUNT(*) FROM "Track"), (SELECT COUNT(*) FROM "Outbox")').fetchone() == (
            0,
            0,
        )
        assert stored.execute('SELECT COUNT(*) FROM "Model"').fetchone() == (1,)
