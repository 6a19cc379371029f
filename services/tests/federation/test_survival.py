"""Runs whose workers vanish and return, whose TTP is killed, and whose disk is full."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.types import ASGIApp
from test_engine import FAST, align_job, headers, infer_job, train_job
from worker_double import Server, Worker, linear, separable

from synergos.errors import Cancelled, GridFailure, Invalid
from synergos.federation import line
from synergos.federation.port import create_app
from synergos.jobs import Alignment, Layout, ParticipantRound, RoundProgress
from synergos.ttp import engine as engine_module
from synergos.ttp import freeing
from synergos.ttp.engine import GridEngine

Start = Callable[..., list[Worker]]
Values = dict[str, Any]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after workers often, and give up soon who never answers."""
    monkeypatch.setattr(line, "FIRST_ANSWER", 0.5)
    monkeypatch.setattr(line, "_WATCH", 0.1)


@pytest.fixture
def three(workers: Start) -> list[Worker]:
    return workers(
        {
            f"worker_{i}": {"train": separable(30 * i, 3, 2, seed=i), "evaluate": separable(20, 3, 2, seed=i + 9)}
            for i in (1, 2, 3)
        }
    )


@pytest.fixture
def engine(tmp_path: Path) -> GridEngine:
    return GridEngine(tmp_path / "outputs", request_timeout=10, round_timeout=60)


def weights(engine_folder: Path) -> bytes:
    return (engine_folder / "outputs/c/p/e/r/global_model.pt").read_bytes()


def histories(engine_folder: Path) -> dict[str, Any]:
    folder = engine_folder / "outputs/c/p/e/r"
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


def files(engine_folder: Path) -> set[str]:
    folder = engine_folder / "outputs/c/p/e/r"
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def at_round(number: int, action: Callable[[], object]) -> Callable[[RoundProgress], None]:
    """Return what does `action` once, after round `number`."""

    def watch(progress: RoundProgress) -> None:
        if progress.round == number:
            action()

    return watch


class Killed(BaseException):
    """Ends the process that trains, as far as a test can."""


def kill() -> None:
    raise Killed


def test_a_restarted_worker_gets_a_session_again_and_nothing_changes(
    three: list[Worker], engine: GridEngine, tmp_path: Path
) -> None:
    job = train_job(three, parameters={**FAST, "rounds": 4, "batch_size": 16, "optimizer": "Adam", "lr": 0.05})
    seen: list[RoundProgress] = []
    engine.train(job, seen.append)
    undisturbed, losses = weights(tmp_path), histories(tmp_path)
    assert [progress.round for progress in seen] == [1, 2, 3, 4]
    assert seen[0].previous_evaluate_loss is None
    assert seen[3].previous_evaluate_loss == losses["global_loss_history.json"]["evaluate"]["2"]
    assert isinstance(seen[0].participants["worker_2"], ParticipantRound)
    assert {name: share.rows for name, share in seen[0].participants.items()} == {
        "worker_1": 30, "worker_2": 60, "worker_3": 90,
    }  # fmt: skip

    def restart() -> None:
        three[1].stop()
        threading.Timer(0.5, three[1].start).start()

    engine.train(job, at_round(2, restart))
    assert weights(tmp_path) == undisturbed
    assert histories(tmp_path) == losses
    assert len(three[1].initialised) == 3
    assert [worker.terminated for worker in three] == [2, 2, 2]


def test_who_stays_away_fails_the_run_by_name(three: list[Worker], engine: GridEngine, tmp_path: Path) -> None:
    job = train_job(three, parameters={**FAST, "rounds": 50, "grace": 0.5})
    with pytest.raises(GridFailure, match=r"Participant worker_2 cannot be reached at http://127.0.0.1:\d+"):
        engine.train(job, at_round(2, three[1].stop))
    assert (three[0].terminated, three[2].terminated) == (1, 1)
    assert files(tmp_path) == set()


def test_who_was_cut_off_when_the_run_ended_is_freed_later(
    three: list[Worker], engine: GridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeing, "_PAUSE", 0.1)
    cut = three[1]

    def pull_the_plug() -> None:
        cut.port.stop()
        cut.rest.stop()

    job = train_job(three, parameters={**FAST, "rounds": 50, "grace": 0.3})
    with pytest.raises(GridFailure, match="worker_2"):
        engine.train(job, at_round(2, pull_the_plug))
    assert cut.sessions.keys() == [("c", "p", "e", "r")]
    cut.start()
    deadline = time.monotonic() + 20
    while cut.sessions.keys():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_goes_on_without_those_it_can_spare_and_takes_them_back(
    three: list[Worker], engine: GridEngine, tmp_path: Path
) -> None:
    back = threading.Event()
    seen: list[RoundProgress] = []

    def watch(progress: RoundProgress) -> None:
        seen.append(progress)
        if progress.round == 2:
            three[1].stop()
        if progress.round == 3:
            three[1].start()
        if "worker_2" not in progress.participants:
            back.wait(0.3)  # a round that takes long enough to be noticed
        elif progress.round > 3:
            back.set()

    job = train_job(three, parameters={**FAST, "rounds": 14, "grace": 0.3, "min_participants": 2})
    result = engine.train(job, watch)
    absent = [progress.round for progress in seen if progress.left_out]
    assert absent and absent == list(range(3, absent[-1] + 1)) and absent[-1] < 14
    assert all(progress.left_out in ([], ["worker_2"]) for progress in seen)
    assert set(seen[2].participants) == {"worker_1", "worker_3"}
    assert seen[2].train_loss == pytest.approx(
        sum(share.loss * share.rows for share in seen[2].participants.values()) / 120
    )
    assert result.paths["global"]["left_out"] == ["worker_2"]
    assert {body["origin"] for body in result.paths.values()} == {"ttp", "worker_1", "worker_2", "worker_3"}
    local = histories(tmp_path)["local_loss_history_worker_2.json"]
    assert [int(index) + 1 for index in local] == [n for n in range(1, 15) if n not in absent]
    # Too many: both reasons are told.
    with pytest.raises(GridFailure, match=r"min_participants is 2, and 1 are left.*worker_1 cannot.*worker_2 cannot"):
        engine.train(job, at_round(1, lambda: [three[0].stop(), three[1].stop()]))
    assert three[2].terminated == 2


def test_who_never_answers_is_absent_from_the_start(three: list[Worker], engine: GridEngine, tmp_path: Path) -> None:
    three[0].stop()
    seen: list[RoundProgress] = []
    engine.train(train_job(three, parameters={**FAST, "min_participants": 2}), seen.append)
    assert [progress.left_out for progress in seen] == [["worker_1"]] * 2
    # Seeds are those of the full list: without min_participants and with the third one alone, the same update.
    alone = json.loads((tmp_path / "outputs/c/p/e/r/local_loss_history_worker_3.json").read_text())
    three[0].start()
    engine.train(train_job(three))
    assert json.loads((tmp_path / "outputs/c/p/e/r/local_loss_history_worker_3.json").read_text())["0"] == alone["0"]


class Sluggish:
    """An application that waits before it answers: to everything, or to everything but its health check."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.frozen, self.slow = app, False, False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.frozen or (self.slow and scope["method"] == "POST"):
            await asyncio.sleep(1.5 if self.slow else 20)
        await self.app(scope, receive, send)


def sluggish(worker: Worker) -> Sluggish:
    """Put the worker's data port behind what may freeze."""
    app = Sluggish(create_app(worker.sessions))
    worker.port.stop()
    worker.port = Server(app)
    return app


def test_a_hung_worker_is_given_up_long_before_the_round_would_be(three: list[Worker], engine: GridEngine) -> None:
    port = sluggish(three[1])
    job = train_job(three, parameters={**FAST, "rounds": 50, "grace": 0.5})
    with pytest.raises(GridFailure, match="worker_2 cannot be reached"):
        engine.train(job, at_round(2, lambda: setattr(port, "frozen", True)))


def test_a_slow_but_healthy_worker_is_waited_for(three: list[Worker], engine: GridEngine) -> None:
    sluggish(three[1]).slow = True
    seen: list[RoundProgress] = []
    engine.train(train_job(three, parameters={**FAST, "rounds": 1, "grace": 0.2}), seen.append)
    assert seen[0].left_out == []


def test_polls_and_inference_have_grace_too(three: list[Worker], engine: GridEngine) -> None:
    for worker in three:
        worker.poll_reply = (200, headers(["a", "b", "c"], ["target_0", "target_1"]))
    three[0].stop()
    threading.Timer(0.3, three[0].start).start()
    result = engine.align(align_job(three))
    assert set(result.alignments) == {"worker_1", "worker_2", "worker_3"}

    job = train_job(three, parameters={**FAST, "grace": 0.5})
    engine.train(job)
    three[2].port.stop()
    port = three[2].port.port
    threading.Timer(0.2, lambda: setattr(three[2], "port", Server(create_app(three[2].sessions), port))).start()
    answers = engine.infer(infer_job(job, "evaluate", "worker_1", "worker_2", "worker_3")).results
    assert len(answers) == 3
    three[2].stop()
    with pytest.raises(GridFailure, match="worker_3 cannot be reached"):
        engine.infer(infer_job(job, "evaluate", "worker_1", "worker_2", "worker_3"))
    three[2].start()


@pytest.mark.parametrize("moment", ["poll", "train", "infer"])
def test_cancel_in_every_phase(three: list[Worker], engine: GridEngine, tmp_path: Path, moment: str) -> None:
    job = train_job(three, parameters={**FAST, "rounds": 100_000})
    if moment == "poll":
        three[0].busy_polls = 10**6
        threading.Timer(0.4, engine.cancel, ["enough"]).start()
        with pytest.raises(Cancelled, match="enough"):
            engine.align(align_job(three))
    elif moment == "train":
        with pytest.raises(Cancelled, match="enough"):
            engine.train(job, at_round(3, lambda: engine.cancel("enough")))
        assert files(tmp_path) == set()
    else:
        quick = job.model_copy(update={"parameters": FAST})
        engine.train(quick)
        sluggish(three[1]).frozen = True
        threading.Timer(0.4, engine.cancel, ["enough"]).start()
        quick = train_job(three, parameters=FAST)
        with pytest.raises(Cancelled, match="enough"):
            engine.infer(infer_job(quick, "evaluate", "worker_1", "worker_2"))
    assert all(worker.sessions.keys() == [] for worker in three)
    engine.cancel("nothing is under way")


@pytest.mark.parametrize(
    "values",
    [
        {"algorithm": "FedAdam", "optimizer": "Adam", "lr": 0.01},
        {"algorithm": "FedAvgM"},
        {"algorithm": "FedProx", "lr_scheduler": "ReduceLROnPlateau", "factor": 0.5, "patience": 2},
        {"algorithm": "FedAvg", "patience": 1, "delta": 1e6, "rounds": 40},
    ],
    ids=lambda values: values["algorithm"],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    three: list[Worker], engine: GridEngine, tmp_path: Path, values: Values
) -> None:
    job = train_job(three, parameters={**FAST, "rounds": 6, "batch_size": 16, **values})
    undisturbed = engine.train(job).paths
    bits, losses, names = weights(tmp_path), histories(tmp_path), files(tmp_path)
    locals_ = {n: (tmp_path / "outputs/c/p/e/r" / n).read_bytes() for n in names if n.startswith("local_model")}
    seen: list[RoundProgress] = []
    for number in (1, 2):
        seen.clear()

        def watch(progress: RoundProgress, number: int = number) -> None:
            seen.append(progress)
            at_round(number, kill)(progress)

        with pytest.raises(Killed):
            engine.train(job, watch)
    assert "unfinished/state" in files(tmp_path)
    again: list[RoundProgress] = []
    other = GridEngine(tmp_path / "outputs")  # another process
    assert other.train(job.model_copy(update={"parties": job.parties[::-1]}), again.append).paths == undisturbed
    assert again[:2] == seen  # to the microseconds that they took: nothing was trained again
    assert [progress.round for progress in again] == list(range(1, undisturbed["global"]["rounds"] + 1))
    assert (weights(tmp_path), histories(tmp_path), files(tmp_path)) == (bits, losses, names)
    assert locals_ == {n: (tmp_path / "outputs/c/p/e/r" / n).read_bytes() for n in locals_}


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_used(
    three: list[Worker], engine: GridEngine, tmp_path: Path
) -> None:
    job = train_job(three, parameters={**FAST, "rounds": 3})
    engine.train(job)
    bits = weights(tmp_path)
    other = train_job(three, parameters={**FAST, "rounds": 3, "seed": 7})
    folder = tmp_path / "outputs/c/p/e/r/unfinished"
    with pytest.raises(Killed):
        engine.train(other, at_round(1, kill))
    engine.train(job)
    assert weights(tmp_path) == bits
    for damage in (b"", b"\x00\x00\x00\x02{}", None):
        with pytest.raises(Killed):
            engine.train(job, at_round(2, kill))
        if damage is None:
            (folder / "rounds.jsonl").write_text("")
        else:
            (folder / "state").write_bytes(damage)
        seen: list[RoundProgress] = []
        engine.train(job, seen.append)
        assert seen[0].round == 1
        assert weights(tmp_path) == bits


def test_the_best_round_is_kept_and_checkpoints_on_the_way(
    three: list[Worker], engine: GridEngine, tmp_path: Path
) -> None:
    # A learning rate that grows until it does harm.
    parameters = {**FAST, "rounds": 6, "lr": 0.5, "lr_scheduler": "ExponentialLR", "gamma": 1.6, "checkpoints": 1}
    result = engine.train(train_job(three, parameters=parameters))
    folder = tmp_path / "outputs/c/p/e/r"
    losses = json.loads((folder / "global_loss_history.json").read_text())["evaluate"]
    best = int(min(losses, key=losses.__getitem__)) + 1
    assert 1 <= best < 6 == result.paths["global"]["rounds"]
    assert result.paths["global"]["best_round"] == best
    assert result.paths["global"]["checkpoints"] == str(folder / "checkpoints")
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {f"round_{n}" for n in range(1, 7)}
    final, kept = (
        torch.load(path / "global_model.pt", weights_only=True)
        for path in (folder, folder / "checkpoints" / f"round_{best}")
    )
    assert all(torch.equal(final[name], kept[name]) for name in final)
    told = json.loads((folder / "checkpoints/round_4/global_loss_history.json").read_text())
    assert (list(told["train"]), list(told["evaluate"])) == (["0", "1", "2", "3"], ["0", "1", "2"])
    engine.train(train_job(three, parameters={**parameters, "checkpoints": 3, "rounds": 4}))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"round_3"}


def test_a_full_disk_fails_the_run_leaves_no_half_file_and_frees_the_workers(
    three: list[Worker], engine: GridEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train_job(three)
    engine.train(job)
    before = {path: path.read_bytes() for path in (tmp_path / "outputs").rglob("*") if path.is_file()}
    write, left = Path.write_text, [2]

    def full(path: Path, text: str) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    said = r"outputs of the run cannot be written to .*: \[Errno 28\] No space left"
    with pytest.raises(GridFailure, match=said):
        engine.train(train_job(three, parameters={**FAST, "seed": 7}))
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in (tmp_path / "outputs").rglob("*") if path.is_file()} == before

    opened = Path.open

    def fail(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "state.part":
            raise OSError(28, "No space left on device")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", fail)  # the checkpoint
    with pytest.raises(GridFailure, match=said):
        engine.train(job)
    assert [worker.terminated for worker in three] == [3, 3, 3]


def test_class_weights_travel_as_numbers(three: list[Worker], engine: GridEngine, monkeypatch: Any) -> None:
    told: list[Values] = []
    started = engine_module.GridEngine._check

    def check(self: GridEngine, job: Any) -> Any:
        found = started(self, job)
        told.append(found[1])
        return found

    monkeypatch.setattr(GridEngine, "_check", check)
    layout = Layout(X=["a", "b", "c"], y=["target_0", "target_1"], counts={"target_0": 30, "target_1": 10})
    for given in ("balanced", [0.5, 3]):
        job = train_job(three, parameters={**FAST, "class_weights": given})
        job = job.model_copy(
            update={"parties": [p.model_copy(update={"alignment": Alignment(layout=layout)}) for p in job.parties]}
        )
        engine.train(job)
    np.testing.assert_allclose([json.loads(t["class_weights"]) for t in told], [[40 / 60, 2], [0.5, 3]])
    for wrong, said in (
        ({"class_weights": "balanced"}, r"needs the training rows of every class, and those of target_0, target_1 are"),
        ({"class_weights": [1, 2, 3]}, "class_weights has 3"),
        ({"min_participants": 4}, "min_participants is 4, but project p has 3 participants"),
        ({"algorithm": "FedMedian", "min_participants": 2}, "needs at least 3 participants"),
    ):
        with pytest.raises(Invalid, match=said):
            engine.train(train_job(three, parameters={**FAST, **wrong}))
    with pytest.raises(Invalid, match="class_weights weigh classes"):
        engine.train(
            train_job(
                three,
                action="regress",
                model=linear(3, 1, ""),
                parameters={**FAST, "criterion": "MSELoss", "class_weights": "balanced"},
            )
        )
