"""The data port and the grid that talks to it."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Response
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from worker_double import Server, Worker, linear, separable

from synergos.errors import GridFailure
from synergos.federation import client, codec, identity, training
from synergos.federation.grid import Cancelled, DirectGrid, Endpoint
from synergos.federation.layers import Network

Start = Callable[..., list[Worker]]
MODEL = linear(3, 1, "sigmoid")


def content(parameters: dict[str, Any] | None = None, **config: Any) -> RecordDict:
    settings = {
        "architecture": json.dumps(MODEL),
        "parameters": json.dumps({"epochs": 2, "lr": 0.1, **(parameters or {})}),
        "server-round": 1,
        **config,
    }
    weights = {name: Array(np.zeros(value.shape, np.float32)) for name, value in Network(MODEL).state_dict().items()}
    return RecordDict({"arrays": ArrayRecord(weights), "config": ConfigRecord(settings)})


def post(worker: Worker, body: bytes, path: str = "train/1/1") -> httpx.Response:
    headers = {"Authorization": "Bearer secret"}
    return httpx.post(f"{worker.port.url}/v1/messages/{path}", content=body, headers=headers, timeout=30)


@pytest.fixture
def worker(workers: Start) -> Worker:
    data = {"train": separable(20, 3, 2, seed=1), "evaluate": separable(9, 3, 2, seed=2)}
    (worker,) = workers({"worker_1": data})
    worker.open("secret")
    return worker


def counted(monkeypatch: pytest.MonkeyPatch, seconds: float = 0) -> list[int]:
    """Return a list that grows with each training."""
    calls: list[int] = []
    fit = training.fit

    def slow(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        time.sleep(seconds)
        return fit(*args, **kwargs)

    monkeypatch.setattr(client.training, "fit", slow)
    return calls


def test_health_needs_no_token(worker: Worker) -> None:
    assert httpx.get(f"{worker.port.url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize("token", [None, "", "wrong", "secret2", "secre", "ü"])
def test_wrong_token(worker: Worker, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    headers = [(b"authorization", (b"Bearer " + token.encode()).strip())] if token is not None else []
    answer = httpx.post(f"{worker.port.url}/v1/messages/train/1/1", content=codec.encode(content()), headers=headers)
    assert answer.status_code == 401
    assert "message" in answer.json()
    assert not calls


def test_a_token_opens_its_own_session_only_while_it_lasts(worker: Worker) -> None:
    body = codec.encode(content())
    assert post(worker, body).status_code == 200
    worker.sessions.close(("c", "p", "e", "r"))
    assert post(worker, body).status_code == 401


WRONG_WEIGHTS = RecordDict({**content(), "arrays": ArrayRecord({"w": Array(np.zeros(3, np.float32))})})


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("train/1/1", b"", 400, "shorter"),
        ("train/1/1", b"\xff" * 100, 400, "announces a header"),
        ("train/1/1", struct.pack(">I", 4) + b"nope", 400, "cannot be read"),
        ("destroy/1/1", codec.encode(content()), 400, "'destroy' is not a type of message"),
        ("train/-1/1", codec.encode(content()), 404, "There is no POST /v1/messages/train/-1/1 here"),
        ("train/1", codec.encode(content()), 404, "There is no"),
        ("train/1/1", codec.encode(RecordDict()), 417, "carries weights"),
        ("train/1/1", codec.encode(WRONG_WEIGHTS), 417, "do not belong"),
        ("train/1/1", codec.encode(content(architecture="[")), 417, "JSON"),
        ("train/1/1", codec.encode(content(architecture="[]")), 417, "1 to 1000 layers"),
        ("train/1/1", codec.encode(content(parameters={"lr": 0})), 417, "lr = 0"),
        ("train/1/1", codec.encode(content(**{"proximal-mu": -1.0})), 417, "proximal-mu"),
        ("query/0/1", codec.encode(content(meta="secrets")), 417, "no secrets set"),
    ],
)
def test_bad_messages_get_an_explanation(worker: Worker, path: str, body: bytes, status: int, said: str) -> None:
    answer = post(worker, body, path)
    assert answer.status_code == status
    assert said in answer.json()["message"]


def test_oversized_body_is_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_MESSAGE", 1000)
    assert post(worker, b"x" * 1001).status_code == 413


def test_defects_answer_500_without_a_trace(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.training, "fit", lambda *_, **__: 1 / 0)
    answer = post(worker, codec.encode(content()))
    assert (answer.status_code, answer.json()) == (500, {"message": "The worker failed; its log tells why."})


def test_a_repeated_message_trains_once(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    body = codec.encode(content())
    answers = [post(worker, body, f"train/{number}/1").content for number in (1, 1, 2, 2, 2)]
    assert len(calls) == 2
    assert answers[0] == answers[1]
    assert answers[2] == answers[3] == answers[4]


def test_simultaneous_repetitions_wait_for_the_first(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, seconds=0.3)
    body = codec.encode(content())
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(post(worker, body).content)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(answers)) == 1


def test_a_failed_message_can_be_repeated(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    body = codec.encode(content())
    with monkeypatch.context() as broken:
        broken.setattr(client.training, "fit", lambda *_, **__: 1 / 0)
        assert post(worker, body).status_code == 500
    assert post(worker, body).status_code == 200


def test_closing_the_session_ends_a_training(worker: Worker) -> None:
    body = codec.encode(content({"epochs": 100_000, "patience": 10**9}))
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(worker, body)))
    thread.start()
    time.sleep(0.5)
    assert not answers
    worker.sessions.close(("c", "p", "e", "r"))
    thread.join(10)
    assert answers[0].status_code == 404


def test_evaluation_on_the_way(worker: Worker) -> None:
    body = codec.encode(content(evaluate=True))
    reply = codec.decode(post(worker, body).content)
    assert set(reply["metrics"]) == {"num-examples", "train-loss", "seconds", "evaluate-examples", "evaluate-loss"}
    # Of zero weights, not of what training made of them.
    assert reply["metrics"]["evaluate-loss"] == pytest.approx(np.log(2))
    assert (reply["metrics"]["num-examples"], reply["metrics"]["evaluate-examples"]) == (20, 9)


def test_a_restarted_worker_goes_on_where_it_was(worker: Worker) -> None:
    """A schedule that depends on losses travels with the messages: nothing is left at the worker."""
    plateau = {"lr_scheduler": "ReduceLROnPlateau", "threshold": 0.9, "epochs": 14, "patience": 100, "lr": 0.01}
    first = codec.decode(post(worker, codec.encode(content(plateau))).content)
    state = first["config"]["schedule"]
    assert json.loads(state)["lr"] == 0.001
    again = {"parameters": plateau, "server-round": 2, "schedules": json.dumps({"1": json.loads(state), "2": {}})}
    undisturbed = codec.decode(post(worker, codec.encode(content(**again)), "train/2/1").content)
    worker.sessions.close(("c", "p", "e", "r"))
    worker.open("secret")
    restarted = codec.decode(post(worker, codec.encode(content(**again)), "train/2/1").content)
    for name, array in undisturbed["arrays"].items():
        np.testing.assert_array_equal(array.numpy(), restarted["arrays"][name].numpy())
    assert undisturbed["config"] == restarted["config"]
    assert "config" not in codec.decode(post(worker, codec.encode(content()), "train/3/1").content)


def test_class_weights_come_with_the_message(worker: Worker) -> None:
    def loss(number: int, **config: Any) -> float:
        body = codec.encode(content({"epochs": 1}, **config))
        return float(codec.decode(post(worker, body, f"train/{number}/1").content)["metrics"]["train-loss"])

    assert loss(1, class_weights="[2.0, 2.0]") == pytest.approx(2 * loss(2))
    said = post(worker, codec.encode(content(class_weights="[1.0, 2.0, 3.0]")), "train/3/1").json()["message"]
    assert said.startswith("class_weights has 3 values and the model tells 2 classes apart: give one weight per class")


def grid_of(*urls: str, **options: Any) -> DirectGrid:
    return DirectGrid([Endpoint(f"worker_{i}", url, "secret") for i, url in enumerate(urls, start=1)], **options)


def messages(grid: DirectGrid, **config: Any) -> list[Message]:
    return [grid.create_message(content(**config), "train", node, "") for node in reversed(grid.get_node_ids())]


def test_replies_come_in_the_order_of_the_participants(workers: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    started = workers({f"worker_{i}": {"train": separable(10 * i, 3, 2, seed=i)} for i in range(1, 5)})
    for worker in started:
        worker.open("secret")
    grid = grid_of(*(worker.port.url for worker in started))
    replies = grid.send_and_receive(messages(grid), timeout=20)
    assert [reply.content["metrics"]["num-examples"] for reply in replies] == [10, 20, 30, 40]
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3, 4]
    grid.close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (417, b'{"message": "no rows"}', "worker_1 failed: no rows"),
        (500, b"<html>", "worker_1 failed: HTTP status 500"),
        (401, b'{"message": "who?"}', "worker_1 has lost its session.*who?"),
        (200, b"garbage", "worker_1 gave an unusable answer"),
    ],
)
def test_failures_name_the_participant(status: int, body: bytes, said: str) -> None:
    app = FastAPI()
    app.post("/v1/messages/train/1/{node}")(lambda: Response(body, status_code=status))
    server = Server(app)
    grid = grid_of(server.url)
    with pytest.raises(GridFailure, match=said):
        grid.send_and_receive(messages(grid), timeout=20)
    grid.close()
    server.stop()


def test_a_large_message_without_a_session_is_told_so(worker: Worker) -> None:
    """The port answers before it has read the body, and closes the connection under the sender's feet."""
    grid = DirectGrid([Endpoint("worker_1", worker.port.url, "outdated")])
    big = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(5_000_000, np.float32))}), "config": ConfigRecord()})
    with pytest.raises(GridFailure, match="worker_1 has lost its session"):
        grid.send_and_receive([grid.create_message(big, "train", 1, "")], timeout=20)
    grid.close()


def test_nobody_listens_there() -> None:
    grid = grid_of("http://127.0.0.1:9", grace=0.5)
    with pytest.raises(GridFailure, match=r"worker_1 cannot be reached at http://127.0.0.1:9"):
        grid.send_and_receive(messages(grid), timeout=20)
    grid.close()


def test_a_silent_worker_is_given_up_and_the_others_are_not_waited_for(worker: Worker) -> None:
    stuck = threading.Event()
    app = FastAPI()
    app.post("/v1/messages/train/1/{node}")(lambda: stuck.wait(20))
    server = Server(app)
    grid = grid_of(worker.port.url, server.url)
    with pytest.raises(GridFailure, match="worker_2 did not answer in time"):
        grid.send_and_receive(messages(grid), timeout=1)
    grid.close()
    grid = grid_of("http://127.0.0.1:9", server.url, grace=0.2)
    with pytest.raises(GridFailure, match="worker_1 cannot be reached"):
        grid.send_and_receive(messages(grid), timeout=None)
    grid.close()
    stuck.set()
    server.stop()


def test_a_worker_that_comes_back_gets_the_message_again(workers: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the worker took the message: the reply of the first delivery is what counts."""
    calls = counted(monkeypatch)
    (worker,) = workers({"worker_1": {"train": separable(20, 3, 2, seed=1)}})
    worker.open("secret")
    grid = grid_of(worker.port.url)
    talk = grid._lines[1]._talk
    broken = iter([True])

    def breaking(*args: Any) -> Any:
        answer = talk(*args)
        if next(broken, False):
            raise ConnectionResetError("connection reset")
        return answer

    monkeypatch.setattr(grid._lines[1], "_talk", breaking)
    (reply,) = grid.send_and_receive(messages(grid), timeout=20)
    assert reply.content["metrics"]["num-examples"] == 20
    assert len(calls) == 1
    grid.close()


def test_a_header_is_sent_once_and_again_to_a_worker_that_lacks_it(
    workers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    (worker,) = workers({"worker_1": {"train": separable(20, 3, 2, seed=1)}})
    worker.open("secret")
    grid = grid_of(worker.port.url, renew=lambda node: worker.open("secret"))
    sent: list[int] = []
    talk = grid._lines[1]._talk

    def counting(connection: Any, method: str, request: list[bytes]) -> Any:
        answer = talk(connection, method, request)
        sent.append(answer.status if answer.status != 200 else sum(map(len, request)))
        return answer

    monkeypatch.setattr(grid._lines[1], "_talk", counting)

    def take(number: int) -> Any:
        message = grid.create_message(content(**{"server-round": number}), "train", 1, "")
        return grid.send_and_receive([message], timeout=20)[0].content["arrays"]

    weights = [take(number) for number in (1, 2, 3)]
    for key in worker.sessions.keys():  # noqa: SIM118 (no mapping)
        worker.sessions.close(key)
    weights += [take(number) for number in (3, 4)]
    full, *short = sent[:3]
    assert max(short) < full / 2
    assert sent[3:5] == [401, 428]
    assert sent[5] == pytest.approx(full, abs=10)
    assert sent[6] == pytest.approx(short[0], abs=10)
    assert weights[3] == weights[2]
    assert len(calls) == 5
    grid.close()


def test_cancel(workers: Start) -> None:
    (worker,) = workers({"worker_1": {"train": separable(20, 3, 2, seed=1)}})
    session = worker.open("secret")
    grid = grid_of(worker.port.url)
    threading.Timer(0.5, grid.cancel, ["stopped by the test"]).start()
    with pytest.raises(Cancelled, match="stopped by the test"):
        grid.send_and_receive(messages(grid, parameters={"epochs": 100_000, "patience": 10**9}), timeout=60)
    with pytest.raises(Cancelled):
        grid.send_and_receive(messages(grid), timeout=60)
    worker.sessions.close(session.key)
    grid.close()


identity.adopt()
