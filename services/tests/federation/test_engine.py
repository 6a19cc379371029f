"""The engine against workers whose REST is a stand-in and whose data port is real."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worker_double import Worker, linear, separable

from synergos.errors import Cancelled, FeatureDrift, GridFailure, Invalid, NotFound
from synergos.federation import line
from synergos.federation.sessions import Split
from synergos.jobs import AlignJob, Alignment, InferJob, Layout, Node, Party, Tags, TrainJob
from synergos.ttp.engine import GridEngine

Start = Callable[..., list[Worker]]
LAYOUT = Layout(X=["a", "b", "c"], y=["target_0", "target_1"])
FAST = {"rounds": 2, "epochs": 3, "lr": 0.5, "lr_scheduler": "LambdaLR", "lr_decay": 0, "criterion": "BCELoss"}


def party(worker: Worker, alignment: Alignment | None = None, **tags: Any) -> Party:
    return Party(node=worker.node, tags=Tags(**{"train": [["d", "train"]], **tags}), alignment=alignment)


def headers(X: list[str], y: list[str], **other: Any) -> dict[str, Any]:
    return {"headers": {"train": {"X": X, "y": y}, **other}, "schemas": {}, "metadata": {}}


def train_job(started: list[Worker], **changes: Any) -> TrainJob:
    parties = [party(worker, Alignment(layout=LAYOUT), evaluate=[["d", "evaluate"]]) for worker in started]
    values = {
        "collab_id": "c", "project_id": "p", "expt_id": "e", "run_id": "r", "action": "classify",
        "parties": parties, "model": linear(3, 1, "sigmoid"), "parameters": FAST,
    }  # fmt: skip
    return TrainJob(**{**values, **changes})


def infer_job(job: TrainJob, meta: str, *participants: str) -> InferJob:
    return InferJob(**job.model_dump(), meta=meta, participants=participants)  # type: ignore[arg-type]


@pytest.fixture
def pair(workers: Start) -> list[Worker]:
    def sets(seed: int, rows: int) -> dict[str, Split]:
        unlabelled = Split(separable(7, 3, 2, seed=seed + 9).X, None)
        return {"train": separable(rows, 3, 2, seed), "evaluate": separable(30, 3, 2, seed + 1), "predict": unlabelled}

    return workers({"worker_2": sets(1, 50), "worker_1": sets(5, 120)})


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never answers is given up soon."""
    monkeypatch.setattr(line, "FIRST_ANSWER", 0.5)


@pytest.fixture
def engine(tmp_path: Path) -> GridEngine:
    return GridEngine(tmp_path, request_timeout=5, round_timeout=30)


def align_job(started: list[Worker], **changes: Any) -> AlignJob:
    values = {"collab_id": "c", "project_id": "p", "action": "classify", "parties": [party(w) for w in started]}
    return AlignJob(**{**values, **changes})


def test_align(workers: Start, engine: GridEngine) -> None:
    first, second = workers({"worker_1": {}, "worker_2": {}})
    first.poll_reply = (200, headers(["a", "c"], ["target_0", "target_2"]))
    second.poll_reply = (200, headers(["a", "b"], ["target_1", "target_0"]))
    second.busy_polls = 2
    fits = linear(3, 3, "softmax")
    result = engine.align(align_job([first, second], experiments={"e1": linear(9, 1, "sigmoid"), "e2": fits}))
    assert result.alignments["worker_1"].train.model_dump() == {"X": [1], "y": [1]}
    assert result.alignments["worker_2"].train.model_dump() == {"X": [2], "y": [2]}
    assert result.alignments["worker_1"].layout.y == ["target_0", "target_1", "target_2"]
    assert result.experiments == {"e1": fits}
    neither = engine.align(align_job([first, second], experiments={"e1": fits}, auto_align=False, auto_fix=False))
    assert (neither.alignments, neither.experiments) == ({}, {})


def test_align_failures_say_who_and_what(workers: Start, engine: GridEngine) -> None:
    first, second = workers({"worker_1": {}, "worker_2": {}})
    first.poll_reply = (417, {"message": "schema.json lacks column b"})
    second.poll_reply = (200, {"headers": "?"})
    with pytest.raises(GridFailure) as failure:
        engine.align(align_job([first, second]))
    assert "worker_1 says: schema.json lacks column b" in failure.value.message
    assert "worker_2 gave an unusable poll reply" in failure.value.message

    gone = Node(participant_id="worker_3", host="127.0.0.1", command_port=9, data_port=9)
    with pytest.raises(GridFailure, match=r"worker_3 cannot be reached at http://127.0.0.1:9"):
        engine.align(align_job([], parties=[Party(node=gone, tags=Tags(train=[["x"]]))]))
    first.busy_polls = 10**6
    with pytest.raises(GridFailure, match="worker_1 was still loading its data after 1 s"):
        GridEngine(Path("unused"), request_timeout=1).align(align_job([first]))
    with pytest.raises(Invalid, match="worker_2 has no train tags"):
        engine.align(align_job([], parties=[Party(node=second.node, tags=Tags())]))
    with pytest.raises(Invalid, match="no participants"):
        engine.align(align_job([]))


def test_realign(workers: Start, engine: GridEngine) -> None:
    first, second = workers({"worker_1": {}, "worker_2": {}})
    job = align_job([], parties=[party(first, Alignment(layout=LAYOUT)), party(second)])
    first.poll_reply = (200, headers(["a", "c"], LAYOUT.y, predict={"X": ["b"], "y": []}))
    second.poll_reply = (500, {})
    alignment = engine.realign(job, "worker_1")
    assert alignment.predict.model_dump() == {"X": [0, 2], "y": []}
    assert alignment.layout == LAYOUT
    first.poll_reply = (200, headers(["a"], LAYOUT.y, predict={"X": ["a", "z"], "y": []}))
    with pytest.raises(FeatureDrift, match="z"):
        engine.realign(job, "worker_1")
    with pytest.raises(Invalid, match="worker_2 has no alignment"):
        engine.realign(job, "worker_2")
    with pytest.raises(NotFound, match="nobody"):
        engine.realign(job, "nobody")


def test_train_and_infer(pair: list[Worker], engine: GridEngine, tmp_path: Path) -> None:
    job = train_job(pair, parameters={**FAST, "epochs": 20})
    result = engine.train(job)

    folder = tmp_path / "c" / "p" / "e" / "r"
    names = {
        "global": ("ttp", "global_model.pt", "global_loss_history.json"),
        "local_1": ("worker_1", "local_model_worker_1.pt", "local_loss_history_worker_1.json"),
        "local_2": ("worker_2", "local_model_worker_2.pt", "local_loss_history_worker_2.json"),
    }
    outcome = {name: result.paths["global"].pop(name) for name in ("rounds", "best_round", "left_out")}
    assert outcome == {"rounds": 2, "best_round": 2, "left_out": []}
    assert result.paths == {
        key: {"origin": origin, "path": str(folder / model), "loss_history": str(folder / history)}
        for key, (origin, model, history) in names.items()
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted(n for _, *files in names.values() for n in files)
    history = json.loads((folder / "global_loss_history.json").read_text())
    assert {meta: list(losses) for meta, losses in history.items()} == {"train": ["0", "1"], "evaluate": ["0", "1"]}
    assert history["evaluate"]["1"] < history["evaluate"]["0"]
    assert list(json.loads((folder / "local_loss_history_worker_1.json").read_text())) == ["0", "1"]
    weights = torch.load(folder / "global_model.pt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "nnl_0_linear.weight": (1, 3),
        "nnl_0_linear.bias": (1,),
    }
    local = [
        torch.load(folder / f"local_model_{w}.pt", weights_only=True)["nnl_0_linear.bias"]
        for w in ("worker_1", "worker_2")
    ]
    assert local[0] != local[1]
    torch.testing.assert_close(weights["nnl_0_linear.bias"], (120 * local[0] + 50 * local[1]) / 170)

    answers = engine.infer(infer_job(job, "evaluate", "worker_1", "worker_2")).results
    assert answers["worker_1"] == {"statistics": {"rows": 30}, "res_path": "/worker/outputs/evaluate"}
    assert set(answers) == {"worker_1", "worker_2"}
    for worker in pair:
        y_pred, y_score = worker.recorded["evaluate"]
        assert (y_pred == worker.data["evaluate"].y.ravel()).mean() > 0.9
        np.testing.assert_array_equal(y_score[:, 0] > 0.5, y_pred)
        assert worker.terminated == 2
        assert worker.sessions.keys() == []
    body = pair[0].initialised[0]
    assert (body["layout"], body["id"], body["action"]) == (LAYOUT.model_dump(mode="json"), "worker_2", "classify")
    tokens = {body["token"] for worker in pair for body in worker.initialised}
    assert len(tokens) == 4


def test_prediction_asks_only_the_one_participant(pair: list[Worker], engine: GridEngine) -> None:
    job = train_job(pair)
    engine.train(job)
    parties = [party(pair[0], Alignment(layout=LAYOUT), predict=[["d"]]), party(pair[1], Alignment(layout=LAYOUT))]
    pair[1].stop()
    results = engine.infer(infer_job(job.model_copy(update={"parties": parties}), "predict", "worker_2")).results
    assert list(results) == ["worker_2"]
    assert len(pair[0].recorded["predict"][0]) == 7
    with pytest.raises(Invalid, match=r"None of worker_1 has predict tags"):
        engine.infer(infer_job(job.model_copy(update={"parties": parties}), "predict", "worker_1"))
    pair[1].start()


def test_inference_without_a_model(pair: list[Worker], engine: GridEngine, tmp_path: Path) -> None:
    job = infer_job(train_job(pair), "evaluate", "worker_1")
    with pytest.raises(NotFound, match="c/p/e/r has no trained model"):
        engine.infer(job)
    folder = tmp_path / "c" / "p" / "e" / "r"
    folder.mkdir(parents=True)
    torch.save({"other": torch.zeros(1)}, folder / "global_model.pt")
    with pytest.raises(Invalid, match="does not fit its experiment"):
        engine.infer(job)
    (folder / "global_model.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(Invalid, match="does not fit its experiment"):
        engine.infer(job)
    assert pair[0].initialised == []


def test_the_same_run_twice_gives_the_same_files(pair: list[Worker], engine: GridEngine, tmp_path: Path) -> None:
    job = train_job(pair, parameters={**FAST, "batch_size": 16})
    bits = []
    for parties in (job.parties, job.parties[::-1]):
        engine.train(job.model_copy(update={"parties": parties}))
        bits.append((tmp_path / "c/p/e/r/global_model.pt").read_bytes())
    assert bits[0] == bits[1]


def test_three_classes_and_regression(workers: Start, engine: GridEngine) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(80, 3)).astype(np.float32)
    line = (X @ np.asarray([1, -2, 0.5], np.float32) + 3)[:, None]
    started = workers(
        {
            "three": {"train": separable(90, 3, 3, seed=1), "evaluate": separable(40, 3, 3, seed=2)},
            "line": {"train": Split(X, line), "evaluate": Split(X, line)},
        }
    )
    layout = Layout(X=LAYOUT.X, y=["target_0", "target_1", "target_2"])
    three = party(started[0], Alignment(layout=layout), evaluate=[["x"]])
    parameters = {**FAST, "rounds": 5, "epochs": 20, "criterion": "NLLLoss"}
    job = train_job([], parties=[three], model=linear(3, 3, "softmax"), parameters=parameters)
    engine.train(job)
    engine.infer(infer_job(job, "evaluate", "three"))
    y_pred, y_score = started[0].recorded["evaluate"]
    assert (y_pred == started[0].data["evaluate"].y).mean() > 0.85
    assert y_score.shape == (40, 3)

    flat = party(started[1], Alignment(layout=Layout(X=LAYOUT.X, y=["target"])), evaluate=[["x"]])
    parameters = {**FAST, "rounds": 5, "epochs": 20, "lr": 0.1, "criterion": "MSELoss"}
    job = train_job([], parties=[flat], action="regress", model=linear(3, 1, ""), parameters=parameters)
    engine.train(job)
    engine.infer(infer_job(job, "evaluate", "line"))
    np.testing.assert_allclose(started[1].recorded["evaluate"][0], line[:, 0], atol=0.05)


def test_run_without_evaluate_data_and_global_early_stop(workers: Start, engine: GridEngine, tmp_path: Path) -> None:
    started = workers({"worker_1": {"train": separable(40, 3, 2, seed=1)}})
    # Nothing improves by a million: round 1 sets the mark, rounds 2 and 3 miss it, and two misses are one too many.
    engine.train(train_job(started, parameters={**FAST, "rounds": 50, "patience": 1, "delta": 1e6}))
    history = json.loads((tmp_path / "c/p/e/r/global_loss_history.json").read_text())
    assert list(history["train"]) == ["0", "1", "2"]
    assert history["evaluate"] == {}


def test_early_stop_on_evaluation_keeps_the_evaluated_weights(
    pair: list[Worker], engine: GridEngine, tmp_path: Path
) -> None:
    engine.train(train_job(pair, parameters={**FAST, "rounds": 50, "patience": 1, "delta": 1e6, "epochs": 1}))
    stopped = (tmp_path / "c/p/e/r/global_model.pt").read_bytes()
    history = json.loads((tmp_path / "c/p/e/r/global_loss_history.json").read_text())
    assert list(history["train"]) == list(history["evaluate"]) == ["0", "1", "2"]
    engine.train(train_job(pair, parameters={**FAST, "rounds": 3, "patience": 99, "epochs": 1}))
    assert (tmp_path / "c/p/e/r/global_model.pt").read_bytes() == stopped
    assert json.loads((tmp_path / "c/p/e/r/global_loss_history.json").read_text()) == history


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"algorithm": "FedGKT"}}, "FedGKT"),
        ({"parameters": {"criterion": "MSELos"}}, "MSELos"),
        ({"model": linear(4, 1, "sigmoid")}, r"cannot take rows of shape \(3,\)"),
        ({"model": linear(3, 5, "softmax"), "parameters": {"criterion": "NLLLoss"}}, "5 outputs for 2 classes"),
        ({"model": linear(3, 1, "relu")}, "BCEWithLogitsLoss"),
        ({"parties": []}, "no participants"),
    ],
)
def test_wrong_settings_are_found_before_a_worker_is_asked(
    pair: list[Worker], engine: GridEngine, changes: Any, said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        engine.train(train_job(pair, **changes))
    assert all(worker.initialised == [] for worker in pair)


def test_parties_must_be_aligned_together(pair: list[Worker], engine: GridEngine) -> None:
    job = train_job(pair)
    job.parties[1].alignment = None
    with pytest.raises(Invalid, match="not aligned for all"):
        engine.train(job)
    job.parties[1].alignment = Alignment(layout=Layout(X=["a", "b", "z"], y=LAYOUT.y))
    with pytest.raises(Invalid, match="aligned at different times"):
        engine.train(job)


def test_training_without_alignment(pair: list[Worker], engine: GridEngine) -> None:
    parties = [party(worker) for worker in pair]
    engine.train(train_job([], auto_align=False, parties=parties))
    with pytest.raises(GridFailure, match=r"worker_\d failed: Layer 0 .* cannot take rows of shape \(3,\)"):
        engine.train(
            train_job([], auto_align=False, parties=[party(worker) for worker in pair], model=linear(4, 1, "sigmoid"))
        )


def test_divergence_names_participant_and_round_and_frees_the_workers(
    pair: list[Worker], engine: GridEngine, tmp_path: Path
) -> None:
    pair[1].data["train"] = Split(np.full((5, 3), 1e30, np.float32), np.ones((5, 1), np.float32))
    with pytest.raises(
        GridFailure, match=r"worker_1 failed: The loss became (nan|inf) in round 1, epoch \d+: lower lr"
    ):
        engine.train(train_job(pair, parameters={**FAST, "criterion": "MSELoss", "lr": 0.1}, model=linear(3, 1, "")))
    assert [worker.terminated for worker in pair] == [1, 1]
    assert list((tmp_path / "c/p/e/r").iterdir()) == []


def test_weights_beyond_all_numbers_name_their_participant(pair: list[Worker], engine: GridEngine) -> None:
    """The loss of the only step is finite, and what the step makes of the weights is not."""
    pair[1].data["train"] = Split(np.full((5, 3), 1e18, np.float32), np.ones((5, 1), np.float32))
    parameters = {**FAST, "rounds": 1, "epochs": 1, "criterion": "MSELoss", "lr": 1e20}
    with pytest.raises(GridFailure, match=r"weights nnl_0_linear.weight of worker_1 are no longer finite: lower lr"):
        engine.train(train_job(pair, parameters=parameters, model=linear(3, 1, "")))


def test_a_worker_that_is_gone_fails_the_run_and_frees_the_rest(pair: list[Worker], engine: GridEngine) -> None:
    job = train_job(pair)
    pair[0].rest.stop()
    with pytest.raises(GridFailure, match="worker_2 cannot be reached"):
        engine.train(job)
    assert pair[1].terminated == 1


def test_cancel(pair: list[Worker], engine: GridEngine) -> None:
    engine.cancel("nothing runs")
    threading.Timer(0.5, engine.cancel, ["the grid shuts down"]).start()
    with pytest.raises(Cancelled, match="shuts down"):
        engine.train(train_job(pair, parameters={**FAST, "rounds": 100_000}))
    assert [worker.sessions.keys() for worker in pair] == [[], []]


def test_unwritable_outputs(pair: list[Worker], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(GridFailure, match="cannot be written"):
        GridEngine(blocked).train(train_job(pair))
    assert pair[0].initialised == []
