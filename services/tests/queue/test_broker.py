"""Jobs through a real broker: order, sharing, and every way in which one of the parties can fail."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parties import Grids, Heard, eventually, resident
from rabbit import Rabbit

from synergos.errors import Invalid, SynergosError
from synergos.logs import trace_id
from synergos.queue import (
    Address,
    BrokerAway,
    Cancel,
    Controls,
    GiveBack,
    Job,
    Malformed,
    Progress,
    Publisher,
    Unroutable,
    dead,
)
from synergos.queue.messages import Process, decode, encode

TRACE = "0af7651916cd43dd8448eb211c80319c"


def job(name: str, process: Process = "train", **fields: Any) -> Job:
    return Job(job_id=name, process=process, keys=["c", "p", "e", name], grids=[[], []], trace_id=TRACE, **fields)


def waits(event: threading.Event) -> Callable[[Job], dict[str, Any]]:
    """Work that ends when `event` is set."""

    def work(_: Job) -> dict[str, Any]:
        event.wait(60)
        return {}

    return work


def takes(seconds: float) -> Callable[[Job], dict[str, Any]]:
    """Work of so many seconds."""
    return lambda _: time.sleep(seconds) or {}


def done(heard: Heard) -> list[str]:
    return [answer.job_id for answer in heard.completed()]


def test_most_urgent_first_oldest_first(director: Publisher, grids: Grids, heard: Heard) -> None:
    order: tuple[Process, ...] = ("predict", "train", "preprocess", "validate", "train", "preprocess")
    for number, process in enumerate(order):
        director.publish(job(str(number), process))
    grids.add(lambda _: {})
    heard.wait(lambda: len(heard.completed()) == len(order))
    assert done(heard) == ["2", "5", "1", "4", "0", "3"]


def test_no_message_waits_for_a_consumer_that_is_at_work(director: Publisher, grids: Grids, heard: Heard) -> None:
    hold = threading.Event()
    held = grids.add(waits(hold))
    eventually(lambda: held.connected)
    director.publish(job("long", "preprocess"))
    eventually(lambda: held.job is not None)
    grids.add(lambda task: {"by": task.job_id}, grid=1)
    for number in range(20):
        director.publish(job(str(number), ("train", "validate", "preprocess")[number % 3]))
    heard.wait(lambda: len(heard.completed()) == 20, 10)
    assert {answer.grid for answer in heard.completed()} == {1}
    hold.set()
    heard.wait(lambda: len(heard.completed()) == 21)


def test_two_grids_share_and_each_job_is_done_once(director: Publisher, grids: Grids, heard: Heard) -> None:
    for grid in (0, 1):
        grids.add(takes(0.1), grid)
    began = time.monotonic()
    for number in range(40):
        director.publish(job(str(number)))
    heard.wait(lambda: len(heard.completed()) == 40)
    took = time.monotonic() - began
    shares = [sum(answer.grid == grid for answer in heard.completed()) for grid in (0, 1)]
    assert sorted(done(heard), key=int) == [str(number) for number in range(40)]
    assert min(shares) >= 15 and took < 3.5, (shares, took)


def test_what_a_grid_tells(director: Publisher, grids: Grids, heard: Heard) -> None:
    traces = []

    def work(task: Job) -> dict[str, Any]:
        traces.append(trace_id())
        if task.job_id == "bad":
            raise Invalid("The model has no layers.")
        if task.job_id == "worse":
            raise KeyError("x")
        return {"loss": 0.5}

    grids.add(work, grid=1)
    for name in ("good", "bad", "worse"):
        director.publish(job(name, part="e/r", attempt=2))
    heard.wait(lambda: len(heard.completed()) == 3 and len(heard.items) == 6)
    good, bad, worse = heard.completed()
    assert good.failure is None and good.outputs == {"loss": 0.5} and good.filters == ["c", "p", "e", "good"]
    assert (good.job_id, good.part, good.attempt, good.grid, good.ttp) == ("good", "e/r", 2, 1, "ttp_1")
    assert bad.failure and (bad.failure.reason, bad.failure.status) == ("The model has no layers.", 417)
    assert worse.failure and worse.failure.status == 500 and "see the log of ttp_1" in worse.failure.reason
    taken = [item for item in heard.items if isinstance(item, Progress)]
    assert sorted(item.job_id for item in taken) == ["bad", "good", "worse"] and traces == [TRACE] * 3
    assert grids.rabbit.count("train") == grids.rabbit.count("dead") == 0


KILLED = """
import os, sys, time
from synergos.queue import Address, JobConsumer, Publisher
def work(job):
    print("at work", flush=True)
    if sys.argv[2] == "dies":
        os._exit(9)
    time.sleep(60)
address = Address("127.0.0.1", int(sys.argv[1]), "ttp", sys.argv[3])
publisher = Publisher(address, "victim")
publisher.start()
JobConsumer(address, "victim", 0, publisher, work).start()
time.sleep(60)
"""


def victim(rabbit: Rabbit, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(rabbit.port), how, rabbit.address().password]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and any("at work" in line for line in process.stdout)
    return process


def test_the_job_of_a_killed_grid_goes_to_another(director: Publisher, grids: Grids, heard: Heard) -> None:
    director.publish(job("long"))
    process = victim(grids.rabbit, "works")
    process.kill()
    process.wait()
    grids.add(lambda _: {}, grid=1)
    heard.wait(lambda: done(heard) == ["long"])
    assert heard.completed()[0].grid == 1


def test_a_job_that_kills_is_put_aside_told_and_replayed(director: Publisher, grids: Grids, heard: Heard) -> None:
    director.publish(job("killer", "validate"))
    for _ in range(Rabbit.limit + 1):
        victim(grids.rabbit, "dies").wait()
    heard.wait(lambda: bool(heard.lost()))
    (lost,) = heard.lost()
    assert (lost.job.job_id, lost.cause) == ("killer", "delivery_limit")
    address = grids.rabbit.address("director")
    (line,) = dead.show(address)
    assert line == "evaluate: delivery_limit: job killer c/p/e/killer"
    eventually(lambda: grids.rabbit.count("dead") == 1)
    grids.add(lambda _: {})
    assert list(dead.replay(address)) == [f"put back: {line}"]
    heard.wait(lambda: done(heard) == ["killer"])
    assert grids.rabbit.count("dead") == 0 and list(dead.show(address)) == []


def test_malformed_messages_are_put_aside_and_others_go_on(
    director: Publisher, grids: Grids, heard: Heard, tmp_path: Path
) -> None:
    bodies = [b"", b"\xff\x00", b"[]", b'{"kind": "job"}', encode(job("x")).replace(b'"train"', b'"optimize"')]
    bodies.append(encode(Cancel(job_id="x", reason="y")))
    for body in bodies:
        grids.rabbit.put(body, "SynMQ_topic_train")
    director.publish(job("good"))
    grids.add(lambda _: {})
    heard.wait(lambda: done(heard) == ["good"])
    eventually(lambda: grids.rabbit.count("dead") == len(bodies))
    eventually(lambda: grids.rabbit.count("completed") == 0)
    assert not heard.lost()
    # The command leaves them where they are.
    credentials = tmp_path / "queue"
    credentials.write_text(f"director:{grids.rabbit.address().password}\n")
    told = list(dead.replay(Address.read("127.0.0.1", grids.rabbit.port, credentials)))
    assert len(told) == len(bodies) and all(line.startswith("left: train: rejected: ") for line in told)
    eventually(lambda: grids.rabbit.count("dead") == len(bodies))


def test_a_malformed_result_is_put_aside_once(director: Publisher, heard: Heard, rabbit: Rabbit) -> None:
    channel = rabbit.channel()
    channel.basic_publish("SynMQ_fanout_logs", "SynMQ_fanout_completed", b"nonsense")
    channel.connection.close()
    eventually(lambda: rabbit.count("dead") == 1)
    time.sleep(0.5)
    assert rabbit.count("dead") == 1 and rabbit.count("completed") == 0 and not heard.items


def test_a_broker_killed_while_all_is_quiet(director: Publisher, grids: Grids, heard: Heard) -> None:
    consumer = grids.add(lambda _: {})
    eventually(lambda: consumer.connected)
    grids.rabbit.kill()
    eventually(lambda: not consumer.connected and not director.connected)
    with pytest.raises(BrokerAway, match=r"did not confirm within 0\.3 s"):
        director.publish(job("refused"), timeout=0.3)
    grids.rabbit.start()
    director.publish(job("after"), timeout=30)
    heard.wait(lambda: done(heard) == ["after"])


def test_a_broker_killed_while_a_grid_works(director: Publisher, grids: Grids, heard: Heard) -> None:
    """What had begun ends and is told; the copy that the broker hands out again is not done again."""
    hold, begun = threading.Event(), []

    def work(task: Job) -> dict[str, Any]:
        begun.append(task.job_id)
        hold.wait(60)
        return {}

    consumer = grids.add(work)
    director.publish(job("long"))
    director.publish(job("next"))
    eventually(lambda: begun == ["long"])
    grids.rabbit.kill()
    grids.rabbit.start()
    eventually(lambda: consumer.connected and director.connected)
    time.sleep(1)
    assert begun == ["long"]  # one at a time, although the message is no longer held
    hold.set()
    heard.wait(lambda: sorted(done(heard)) == ["long", "next"])
    eventually(lambda: grids.rabbit.count("train") == 0)
    assert begun == ["long", "next"]


def test_a_result_waits_for_the_broker(director: Publisher, grids: Grids, heard: Heard) -> None:
    hold = threading.Event()
    consumer = grids.add(waits(hold))
    director.publish(job("long"))
    eventually(lambda: consumer.job is not None)
    grids.rabbit.kill()
    hold.set()
    time.sleep(1)
    assert consumer.job is not None
    grids.rabbit.start()
    heard.wait(lambda: done(heard) == ["long"])
    eventually(lambda: consumer.job is None and grids.rabbit.count("train") == 0)


def test_a_broker_killed_while_jobs_are_published(director: Publisher, grids: Grids, heard: Heard) -> None:
    """Whatever was confirmed is there, and the rest is known not to be."""
    published: list[str] = []

    def publish() -> None:
        for number in range(300):
            director.publish(job(str(number)), timeout=60)
            published.append(str(number))

    thread = threading.Thread(target=publish)
    thread.start()
    eventually(lambda: len(published) > 50)
    grids.rabbit.kill()
    grids.rabbit.start()
    thread.join(60)
    grids.add(lambda _: {})
    heard.wait(lambda: {str(number) for number in range(300)} <= set(done(heard)))
    # The one that was under way may have come twice; it was done once, and told as often as it was heard of.
    assert len(published) == 300 and len(done(heard)) == len(set(done(heard)))


def test_work_longer_than_the_consumer_timeout_is_done_once(director: Publisher, grids: Grids, heard: Heard) -> None:
    grids.rabbit.policy(**{"consumer-timeout": 1000})
    begun = []

    def work(task: Job) -> dict[str, Any]:
        begun.append(task.job_id)
        time.sleep(4)
        return {}

    consumer = grids.add(work)
    director.publish(job("long"))
    eventually(lambda: consumer.job is not None)
    eventually(lambda: grids.rabbit.count("train") == 1)  # the broker took it back
    heard.wait(lambda: done(heard) == ["long"])
    eventually(lambda: grids.rabbit.count("train") == 0)
    assert begun == ["long"] and not heard.lost()


def test_a_job_given_back_goes_to_another_grid(director: Publisher, grids: Grids, heard: Heard) -> None:
    def refuse(_: Job) -> dict[str, Any]:
        raise GiveBack("Its workers are away.")

    consumer = grids.add(refuse)
    eventually(lambda: consumer.connected)
    director.publish(job("other"))
    time.sleep(0.5)
    grids.add(lambda _: {}, grid=1)
    heard.wait(lambda: done(heard) == ["other"], 4)
    assert heard.completed()[0].grid == 1


def test_a_consumer_that_is_closed_gives_its_job_back(director: Publisher, grids: Grids, heard: Heard) -> None:
    consumer = grids.add(takes(3))
    director.publish(job("long"))
    eventually(lambda: consumer.job is not None)
    consumer.close()
    grids.add(lambda _: {}, grid=1)
    heard.wait(lambda: done(heard) == ["long"], 2)
    time.sleep(3)
    assert [answer.grid for answer in heard.completed()] == [1]


def test_what_cannot_be_kept_is_taken_again_in_order(director: Publisher, grids: Grids, rabbit: Rabbit) -> None:
    from synergos.queue import ResultConsumer

    heard, failures = Heard(), iter([True, True])

    def take(item: Any) -> None:
        if next(failures, False):
            raise SynergosError("The disk is full.")
        heard.take(item)

    grids.add(lambda _: {})
    consumer = ResultConsumer(rabbit.address("director"), "director", take)
    for number in range(3):
        director.publish(job(str(number)))
    consumer.start()
    heard.wait(lambda: done(heard) == ["0", "1", "2"])
    consumer.close()


def test_what_fails_for_no_foreseen_reason_holds_up_no_other(
    director: Publisher, grids: Grids, rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synergos.queue import ResultConsumer, consumer

    monkeypatch.setattr(consumer, "GIVEN_BACK", 0.05)
    heard = Heard()

    def take(item: Any) -> None:
        if item.job_id == "0":
            raise KeyError("x")
        heard.take(item)

    grids.add(lambda _: {})
    results = ResultConsumer(rabbit.address("director"), "director", take)
    results.start()
    for number in range(3):
        director.publish(job(str(number)))
    heard.wait(lambda: sorted(done(heard)) == ["1", "2"])
    eventually(lambda: rabbit.count("dead") == 1)
    eventually(lambda: rabbit.count("completed") == rabbit.count("progress") == 0)
    results.close()


def test_what_has_no_place_is_an_error(rabbit: Rabbit, director: Publisher) -> None:
    rabbit.api("DELETE", "bindings/%2F/e/SynMQ_topic_logs/q/train/SynMQ_topic_train")
    try:
        with pytest.raises(Unroutable, match="no queue for messages to SynMQ_topic_logs with key SynMQ_topic_train"):
            director.publish(job("nowhere"))
        director.publish(job("somewhere", "validate"))
    finally:
        rabbit.api("POST", "bindings/%2F/e/SynMQ_topic_logs/q/train", {"routing_key": "SynMQ_topic_train"})
    with Publisher(rabbit.address("ttp"), "ttp") as ttp, pytest.raises(Unroutable, match="ACCESS_REFUSED"):
        ttp.publish(job("not yours"))


def test_a_queue_deleted_by_hand_is_used_again_when_it_is_back(
    rabbit: Rabbit, director: Publisher, grids: Grids, heard: Heard
) -> None:
    consumer = grids.add(lambda _: {})
    eventually(lambda: consumer.connected)
    time.sleep(0.5)  # it waits for messages
    rabbit.api("DELETE", "queues/%2F/train")
    eventually(lambda: not consumer.connected)
    rabbit.api("PUT", "queues/%2F/train", {"durable": True, "arguments": {"x-queue-type": "quorum"}})
    rabbit.api("POST", "bindings/%2F/e/SynMQ_topic_logs/q/train", {"routing_key": "SynMQ_topic_train"})
    director.publish(job("after"))
    heard.wait(lambda: done(heard) == ["after"])


def test_waiting_costs_next_to_nothing(grids: Grids, director: Publisher, heard: Heard) -> None:
    for grid in range(4):
        grids.add(lambda _: {}, grid)
    time.sleep(2)
    before = time.process_time()
    time.sleep(5)
    assert time.process_time() - before < 0.25


def test_calls_to_cancel_reach_every_grid(rabbit: Rabbit, director: Publisher) -> None:
    heard: list[tuple[int, Cancel]] = []
    listeners = [Controls(rabbit.address("ttp"), f"ttp_{n}", lambda call, n=n: heard.append((n, call))) for n in (0, 1)]
    for listener in listeners:
        listener.start()
    eventually(lambda: all(listener.connected for listener in listeners))
    director.publish(Cancel(job_id="j", reason="enough"))
    eventually(lambda: len(heard) == 2)
    assert sorted(n for n, _ in heard) == [0, 1] and {call.reason for _, call in heard} == {"enough"}
    for listener in listeners:
        listener.close()
    director.publish(Cancel(job_id="j", reason="nobody listens, which is no error"))


def test_depths(rabbit: Rabbit, director: Publisher, grids: Grids) -> None:
    director.publish(job("a"))
    director.publish(job("b", "predict"))
    depths = director.depths()
    waiting = {name: depth.messages for name, depth in depths.items() if depth.messages}
    assert waiting == {"train": 1, "evaluate": 1} and set(depths) > {"completed", "progress", "dead"}


def test_a_thousand_jobs(director: Publisher, grids: Grids, heard: Heard, capsys: pytest.CaptureFixture[str]) -> None:
    for grid in (0, 1):
        grids.add(lambda _: {"x": "y" * 200}, grid)
    sizes = []
    for lap in range(5):
        began = time.monotonic()
        for number in range(200):
            director.publish(job(f"{lap}-{number}", parameters={"model": ["layer" * 10] * 20}))
        published = time.monotonic() - began
        heard.wait(lambda lap=lap: len(heard.completed()) == 200 * (lap + 1), 60)
        took = time.monotonic() - began
        sizes.append(resident())
        with capsys.disabled():
            print(f"200 jobs: published in {published:.2f} s, all done and told in {took:.2f} s")
    assert len(set(done(heard))) == 1000
    eventually(lambda: all(depth.messages == 0 for depth in director.depths().values()))
    assert sizes[-1] - sizes[0] < 8 << 20, sizes


def test_wrong_credentials(rabbit: Rabbit, tmp_path: Path) -> None:
    path = tmp_path / "queue"
    with pytest.raises(SynergosError, match="cannot be read"):
        Address.read("127.0.0.1", rabbit.port, path)
    path.write_text("director")
    with pytest.raises(SynergosError, match="one line: the broker's user, a colon, the password"):
        Address.read("127.0.0.1", rabbit.port, path)
    path.write_text("director:wrong\n")
    address = Address.read("127.0.0.1", rabbit.port, path)
    assert "wrong" not in repr(address)
    with Publisher(address, "director") as publisher, pytest.raises(BrokerAway, match="ACCESS_REFUSED"):
        publisher.publish(job("x"), timeout=2)


@pytest.mark.parametrize("body", [b"{", b'{"kind":"job","job_id":1}', b'{"kind":"what"}'])
def test_malformed_says_what_is_wrong_but_not_what_was_in_it(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        decode(body)
    assert ": " in str(caught.value)


def test_messages_come_out_as_they_went_in() -> None:
    sent = job("x", "predict", part="e/r", attempt=3, parameters={"rate": 0.1, "deep": [None, {"a": 1}]})
    assert decode(encode(sent)) == sent
