"""What arrives at a log server that is slow, away, back, killed, or never there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver, until

from synergos.logs.lines import Lines
from synergos.logs.sender import Sender

TALKER = str(Path(__file__).with_name("talker.py"))
RECEIVER = str(Path(__file__).with_name("receiver.py"))


class Talk:
    """The lines of this process, to a server."""

    def __init__(self, port: int, **limits: int) -> None:
        self.lines = Lines("w", "worker")
        self.sender = Sender("127.0.0.1", port, self.lines.say, **limits)
        self.lines.senders = {self.lines.logger: self.sender}

    def say(self, count: int, text: str = "") -> None:
        for number in range(count):
            self.lines.write("info", {"event": "said", "number": number, "text": text}, {})


def talk(count: int, how: str, *flags: str) -> tuple[list[dict[str, Any]], list[float], float]:
    """Run the process that logs; returns its lines, its latencies, and the seconds it took from its last line on."""
    command = [sys.executable, TALKER, str(count), how, "--id", "w", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        lines, latencies, begin = [], [], time.monotonic()
        for line in process.stdout:
            if line.startswith("latency"):
                latencies, begin = [float(word) for word in line.split()[1:]], time.monotonic()
            else:
                lines.append(json.loads(line))
        code = process.wait(30)
        assert code == (1 if how == "raise" else 0), process.stderr.read()
        return lines, latencies, time.monotonic() - begin


def graylog(port: int) -> list[str]:
    return ["-l", "graylog", "127.0.0.1", str(port), "--sysmetrics_port", str(port)]


@pytest.mark.parametrize("how", ["exit", "term", "raise"])
def test_every_line_of_a_process_arrives_in_order_however_it_ends(server: Receiver, how: str) -> None:
    server.start()
    lines, _, seconds = talk(10_000, how, *graylog(server.port))
    until(lambda: len(server.messages) >= len(lines), 5)
    assert [message["_line_id"] for message in server.messages] == [line["line_id"] for line in lines]
    assert [message["_round"] for message in server.of("round")] == list(range(10_000))
    assert seconds < 8
    if how == "raise":
        assert "a defect of the program" in server.of("uncaught error")[0]["full_message"]


def test_logging_costs_the_caller_the_same_whatever_the_server_does(server: Receiver) -> None:
    _, (plain, _), _ = talk(10_000, "exit")
    _, (away, _), _ = talk(10_000, "exit", *graylog(server.port))
    server.start()
    _, (there, _), _ = talk(10_000, "exit", *graylog(server.port))
    server.reading.clear()
    _, (stuck, _), seconds = talk(10_000, "exit", *graylog(server.port))
    # A line takes some 15 to 30 microseconds; a call that waited for the server would take a hundred times that.
    assert max(away, there, stuck) < plain + 150
    assert seconds < 8


def test_lines_wait_for_a_server_that_is_away(server: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(server.port)
    talk.say(500)
    until(lambda: "log server is away" in capsys.readouterr().out)
    server.start()
    until(lambda: len(server.of("said")) == 500)
    talk.say(500)
    until(lambda: len(server.of("said")) == 1000)
    server.stop()
    talk.say(500)
    time.sleep(0.5)
    talk.say(500)
    server.start()
    until(lambda: len(server.of("said")) == 2000)
    said = [message["_number"] for message in server.of("said")]
    assert said == list(range(500)) * 4, "the order of first arrivals is that of the calls"
    events = [message["_event"] for message in server.messages if message["_event"] != "said"]
    assert {"log server is away", "log server is back"} == set(events)
    talk.lines.close(3)


@pytest.mark.parametrize("cut_after", [1, 1000, 12_345, 300_001])
def test_a_connection_that_breaks_inside_a_line_loses_nothing(server: Receiver, cut_after: int) -> None:
    server.start(cut_after)
    talk = Talk(server.port)
    talk.say(2000, "x" * 300)
    time.sleep(0.3)
    server.start()
    until(lambda: len(server.of("said")) == 2000)
    assert [message["_number"] for message in server.of("said")] == list(range(2000))
    talk.lines.close(3)


def test_a_server_killed_in_a_burst_has_all_lines_when_it_is_back(tmp_path: Path) -> None:
    port, file = Receiver().port, tmp_path / "ids"
    command = [sys.executable, RECEIVER, str(port), str(file)]
    receiver = subprocess.Popen(command)
    until(lambda: file.exists())
    talk = Talk(port)
    for number in range(1, 6):
        talk.say(2000, "x" * 500)
        if number % 2:
            until(lambda: file.stat().st_size > 0)
            receiver.kill()
            receiver.wait()
            talk.say(100)
            receiver = subprocess.Popen(command)
    talk.say(1)
    wanted = 5 * 2000 + 3 * 100 + 1
    try:
        until(lambda: len(set(file.read_text().split())) >= wanted)
    finally:
        receiver.kill()
        receiver.wait()
    found = {word for word in file.read_text().split() if len(word) == 21}
    process = next(iter(found)).partition("-")[0]
    numbers = sorted(int(word.rpartition("-")[2]) for word in found if word.startswith(process))
    # The lines about the server's absence count, too.
    assert len(numbers) >= wanted
    assert numbers == list(range(1, len(numbers) + 1))
    talk.lines.close(3)


def test_what_must_be_dropped_is_counted_and_told(server: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(server.port, lines=100)
    talk.say(1)
    out: list[dict[str, Any]] = []

    def said(event: str) -> list[dict[str, Any]]:
        out.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
        return [line for line in out if line["event"] == event]

    until(lambda: bool(said("log server is away")))
    talk.say(499)
    told = said("log lines are dropped")
    # At once, and not once per line.
    assert len(told) == 1 and told[0]["dropped"] >= 1 and told[0]["level"] == "error"
    server.start()
    until(lambda: len(server.of("said")) == 100 or len(server.of("log server is away")) == 1)
    until(lambda: len(server.of("said")) >= 99)
    time.sleep(0.2)
    [gap] = server.of("log lines were dropped")
    there = len(server.of("said")) + len(server.of("log server is away"))
    assert gap["_dropped"] + there == 501
    assert [message["_number"] for message in server.of("said")] == list(range(499))[-len(server.of("said")) :]
    talk.lines.close(3)


def test_the_buffer_is_bounded_in_bytes(server: Receiver) -> None:
    talk = Talk(server.port, size=100_000)
    talk.say(200, "x" * 4000)
    server.start()
    until(lambda: bool(server.of("log lines were dropped")))
    until(lambda: bool(server.of("said")) and server.of("said")[-1]["_number"] == 199)
    assert 15 <= len(server.of("said")) <= 25
    talk.lines.close(3)


def test_the_end_of_a_process_does_not_wait_long_for_a_server(server: Receiver) -> None:
    lines, _, seconds = talk(1000, "term", *graylog(server.port))
    assert seconds < 8
    left = [line for line in lines if line["event"] == "log lines may not have arrived"]
    assert left and left[0]["lines"] >= 1000


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_connection_and_ids_of_its_own(server: Receiver) -> None:
    server.start()
    talk = Talk(server.port)
    talk.say(10)
    child = os.fork()
    if child == 0:
        talk.say(10)
        talk.lines.close(3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    talk.say(10)
    talk.lines.close(3)
    until(lambda: len(server.of("said")) == 30)
    processes = [line_id.partition("-")[0] for line_id in server.ids()]
    assert sorted(processes.count(each) for each in set(processes)) == [10, 20]
