"""What a log server knows after a whole cycle of real processes: one trace through all of them, and no secret."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import loopback
import pytest
from receiver import Message, Receiver, until

from synergos import Driver, trace
from synergos.demo import phases
from synergos.demo.settings import Settings

EXAMPLES = Path(__file__).parents[3] / "examples"
EXAMPLE = EXAMPLES / "diabetes"
WRONG = "a-token-that-opens-nothing"
TRACE = "0af7651916cd43dd8448eb211c80319c"
# Runs at the start of every process: notes each token that is made.
SPY = """
import os, secrets
make = secrets.token_urlsafe
def noted(*args):
    token = make(*args)
    with open(os.environ["TOKENS"], "a") as file:
        file.write(token + "\\n")
    return token
secrets.token_urlsafe = noted
"""


class Cycle(NamedTuple):
    """A finished cycle: what arrived at the log server, what the processes printed, and the tokens they made."""

    messages: list[Message]
    printed: list[dict[str, Any]]
    tokens: list[str]
    jobs: list[dict[str, Any]]

    def of(self, *events: str, logger: str = "") -> list[Message]:
        return [each for each in self.messages if each["_event"] in events and each["_logger"].startswith(logger)]


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cycle]:
    root = tmp_path_factory.mktemp("cycle")
    (root / "sitecustomize.py").write_text(SPY)
    tokens = root / "tokens"
    server, usage = Receiver(), Receiver()
    server.start()
    usage.start()
    flags = ["-l", "graylog", "127.0.0.1", str(server.port), "--sysmetrics_port", str(usage.port), "-r", "1"]
    with pytest.MonkeyPatch.context() as patch, loopback.bare_grid(root / "grid", EXAMPLES) as grid:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("TOKENS", str(tokens))
        grid.start_ttp(*flags)
        grid.grow(2, *flags)
        participants = [
            {"participant_id": name, "host": address, "data": f"data{number}"}
            for number, (name, address) in enumerate(grid.workers.items(), 1)
        ]
        settings = Settings.model_validate(
            {"host": grid.ttp, "project_id": "traced", "example": EXAMPLE, "participants": participants}
        )
        driver = Driver(grid.ttp, 5000, trace_id=TRACE)
        for phase in (phases.register, phases.align, phases.train, phases.validate, phases.predict):
            phase(settings, driver)
        driver.runs.create("demo", "traced", "model", "bad", rounds=1, epochs="many")
        jobs = driver.jobs.read_all()["data"]
        intruder = {"Authorization": f"Bearer {WRONG}", "traceparent": trace.header(TRACE)}
        httpx.post(f"http://{grid.workers['worker_1']}:8020/v1/messages/train/1/1", content=b"x", headers=intruder)
        time.sleep(1.5)
        grid.stop()
        printed = [
            json.loads(line)
            for name in ("ttp", "worker_1", "worker_2")
            for line in (root / "grid" / name / "log").read_text().splitlines()
        ]
    until(lambda: len(server.messages) + len(usage.messages) >= len(printed))
    assert all(message["_logger"].startswith("SYS_") for message in usage.messages)
    assert not any(message["_logger"].startswith("SYS_") for message in server.messages)
    yield Cycle(server.messages + usage.messages, printed, tokens.read_text().split(), jobs)


def test_the_log_server_has_what_was_printed(cycle: Cycle) -> None:
    arrived, printed = [m["_line_id"] for m in cycle.messages], [line["line_id"] for line in cycle.printed]
    assert sorted(arrived) == sorted(printed) and len(set(printed)) == len(printed)
    for message in cycle.messages:
        assert message["version"] == "1.1" and message["host"]
        assert message["short_message"].startswith(f"[{message['_logger']}] {message['_event']}")
        assert abs(message["timestamp"] - time.time()) < 600
        assert {"_ID_path", "_level_name"} <= message.keys()


def test_one_trace_goes_through_driver_ttp_and_workers(cycle: Cycle) -> None:
    combination = {"_collab_id": "demo", "_project_id": "traced", "_expt_id": "model", "_run_id": "run"}

    def check(who: str, *events: str, **fields: Any) -> None:
        for event in events:
            found = cycle.of(event, logger=who)
            assert found, (who, event)
            for message in found:
                assert message["_trace_id"] == TRACE, message
                assert {**combination, **fields}.items() <= message.items(), message

    project: dict[str, Any] = {"_expt_id": None, "_run_id": None}
    rounds = json.loads((EXAMPLE / "hyperparameters.json").read_text())["rounds"]
    check("TTP_ttp", "training begins", "round", "trained", "validated", "predicted", "initialised")
    for worker in ("worker_1", "worker_2"):
        check(f"WKR_{worker}", "session opened", "message answered", "session closed", "validated", "predicted")
        check(f"WKR_{worker}", "session opened", "message answered", _participant_id=worker)
        assert (
            len([each for each in cycle.of("message answered", logger=f"WKR_{worker}") if each["_kind"] == "train"])
            == rounds
        )
    assert len(cycle.of("round")) == rounds
    for event, who in (("polled", "TTP_"), ("agreed", "TTP_"), ("data prepared", "WKR_"), ("poll queued", "WKR_")):
        assert cycle.of(event, logger=who)
        for message in cycle.of(event, logger=who):
            assert (message["_trace_id"], message["_project_id"]) == (TRACE, "traced")
            assert project.keys().isdisjoint(message) or event == "polled"
    for event in ("job queued", "job taken", "job ended"):
        found = cycle.of(event)
        assert [message["_process"] for message in found] == ["align", "train", "validate", "predict", "predict"]
        assert {message["_trace_id"] for message in found} == {TRACE}
        assert [message["_job_id"] for message in found] == [job["job_id"] for job in cycle.jobs]
    assert {job["trace_id"] for job in cycle.jobs} == {TRACE}


def test_a_refused_request_says_why(cycle: Cycle) -> None:
    [refused] = [each for each in cycle.of("request", logger="TTP_") if each["_status"] == 417]
    assert refused["level"] == 4 and refused["_code"] == 417 and "epochs" in refused["_description"]
    assert refused["_trace_id"] == TRACE
    [intruder] = cycle.of("message refused")
    assert (intruder["_logger"], intruder["_code"], intruder["_trace_id"]) == ("WKR_worker_1", 401, TRACE)


def test_every_node_introduces_itself(cycle: Cycle) -> None:
    for event in ("input parameters", "logging parameters", "system parameters"):
        assert sorted(each["_logger"] for each in cycle.of(event)) == ["TTP_ttp", "WKR_worker_1", "WKR_worker_2"]


def test_each_field_keeps_its_type(cycle: Cycle) -> None:
    # Elasticsearch refuses a line whose field is a text where it was a number before, and cuts 0.5 to 0 after a 1.
    kinds: dict[str, set[type]] = {}
    for message in cycle.messages:
        for name, value in message.items():
            kinds.setdefault(name, set()).add(type(value))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
    assert {kind for found in kinds.values() for kind in found} == {str, int, float}


def test_metrics_come_from_every_node(cycle: Cycle) -> None:
    for logger in ("SYS_ttp", "SYS_worker_1", "SYS_worker_2"):
        [*_, usage] = cycle.of("usage", logger=logger)
        assert usage["_memory_total"] >= usage["_memory_available"] > 0
        assert {"_cpu_percent", "_disk_read_counter", "_disk_write_counter", "_net_bytes_sent"} <= usage.keys()


def test_neither_secrets_nor_data_are_logged(cycle: Cycle) -> None:
    lines = [json.dumps(line, ensure_ascii=False) for line in cycle.printed]
    lines += [json.dumps(message, ensure_ascii=False) for message in cycle.messages]
    assert len(cycle.tokens) >= 6, "two workers in training, validation and prediction"
    text = "\n".join(lines)
    assert WRONG not in text
    assert [token for token in cycle.tokens if token in text] == []
    numbers = re.compile(r"\d+\.\d{4,}")
    data = {number for path in (EXAMPLE / "dataset").glob("*/*/*.csv") for number in numbers.findall(path.read_text())}
    assert len(data) > 50 and TRACE in text
    assert data & set(numbers.findall(text)) == set()
