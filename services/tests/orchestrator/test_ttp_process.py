"""The TTP as a process: command line, log, stop, reset."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from grid_double import EXPERIMENT, PlainClient, register, registration

from synergos import __version__, cli
from synergos.orchestrator.database import Database
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.queue import exclusive

REST = "http://127.0.0.1:5000"


def command(root: Path, *arguments: str, program: Sequence[str] = ("-m", "synergos.ttp"), **env: str) -> dict[str, Any]:
    return {
        "args": [sys.executable, *program, *arguments],
        "env": {**os.environ, "SYNERGOS_ROOT": str(root), **env},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


@contextlib.contextmanager
def ttp(root: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(**command(root, *arguments, **options)) as process:
        try:
            deadline = time.monotonic() + 60
            while not _healthy():
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def _healthy() -> bool:
    try:
        return all(httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200 for port in (5000, 8020))
    except httpx.TransportError:
        return False


def stop(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], float]:
    """Stop a process; returns its log and the seconds it took."""
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return [json.loads(line) for line in out.splitlines()], time.monotonic() - begin


def test_serve_log_and_stop(tmp_path: Path) -> None:
    # Without -l, which the original could not start with.
    with ttp(tmp_path, "--id", "ttp/one", "-r", "1", "--censored") as process:
        client = PlainClient(REST)
        register(client)
        assert client("GET", "connect/collaborations/nix").status_code == 404
        time.sleep(1.2)
        log, _ = stop(process)
    assert {entry["node"] for entry in log} == {"ttp/one"}
    requests = [entry for entry in log if entry["event"] == "request"]
    assert {"method": "GET", "path": "/ttp/connect/collaborations/nix", "status": 404}.items() <= requests[-1].items()
    assert isinstance(requests[-1]["ms"], float)
    assert not any(entry["path"] == "/health" for entry in requests)
    usage = next(entry for entry in log if entry["event"] == "usage")
    assert usage["memory_total"] > usage["memory_available"] > 0
    # Started again, it knows what it knew.
    with ttp(tmp_path) as process:
        assert PlainClient(REST).ok("GET", "connect/collaborations/c1")["key"] == {"collab_id": "c1"}
        stop(process)


def test_stop_during_a_job(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ttp(tmp_path) as process, ThreadPoolExecutor(1) as pool:
        client = PlainClient(REST)
        register(client, workers=1)
        # A worker that takes the connection and never answers.
        port = silent.getsockname()[1]
        node = {"host": "127.0.0.1", "port": port, "f_port": port}
        client.ok("PUT", registration("worker_1"), {"node_0": node})
        waiting = pool.submit(PlainClient(REST), "POST", "train/collaborations/c1/projects/p1/alignments", {})
        silent.settimeout(20)
        connection, _ = silent.accept()
        refused = subprocess.run(**command(tmp_path, "reset"), check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "at work on a job" in refused.stderr
        _, seconds = stop(process)
        connection.close()
        assert seconds < 15
        refused = waiting.result()
        assert (refused.status_code, "goes on at its start" in refused.json()["message"]) == (503, True)


def test_jobs_of_a_killed_process_go_on(tmp_path: Path) -> None:
    program = [str(Path(__file__).with_name("ttp_double.py"))]
    models = "train/collaborations/c1/projects/p1/models"

    def jobs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = PlainClient(REST).ok("GET", "jobs")
        return found

    def until(states: list[str]) -> None:
        deadline = time.monotonic() + 30
        while [job["state"] for job in jobs()] != states:
            assert time.monotonic() < deadline, jobs()
            time.sleep(0.05)

    with ThreadPoolExecutor() as pool, ttp(tmp_path, program=program, HOLD="r2") as process:
        client = PlainClient(REST)
        register(client)
        client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r2"})
        client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r3"})
        client.ok("POST", "train/collaborations/c1/projects/p1/alignments", {})
        first = pool.submit(PlainClient(REST), "POST", models, {})
        until(["done", "running"])
        second = pool.submit(PlainClient(REST), "POST", f"{models}/e1/r1", {})
        until(["done", "running", "queued"])
        while (tmp_path / "trained").read_text() != "r1\nr2\n":
            time.sleep(0.05)
        before = jobs()
        assert [item["run_id"] for item in before[1]["progress"]["finished"]] == ["r1"]
        process.kill()
        for answer in (first, second):
            with pytest.raises(httpx.TransportError):
                answer.result()
    with ttp(tmp_path, program=program) as process:
        until(["done", "done", "done"])
        assert [job["job_id"] for job in jobs()] == [job["job_id"] for job in before]
        # r1 was finished by the first job; the second one trains it in its own right, and last.
        assert (tmp_path / "trained").read_text().split() == ["r1", "r2", "r2", "r3", "r1"]
        job = client.ok("GET", f"jobs/{before[1]['job_id']}")
        assert [(item["run_id"], item["round"]) for item in job["progress"]["rounds"]] == [
            (run, number) for run in ("r1", "r2", "r3") for number in (1, 2)
        ]
        assert job["started_at"] == before[1]["started_at"]
        assert len(client.ok("GET", models)) == 3
        log, _ = stop(process)
    assert sum(entry["event"] == "job taken up again" for entry in log) == 2


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 8020)):
        process = subprocess.run(**command(tmp_path), timeout=60, check=False)
    assert process.returncode == 1
    last = json.loads(process.stdout.splitlines()[-1])
    assert "port 8020" in last["reason"]


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "database.db").write_text("no database\n" * 100)
    process = subprocess.run(**command(tmp_path), timeout=60, check=False)
    assert process.returncode == 1
    assert str(tmp_path / "data" / "database.db") in process.stderr
    assert "Traceback" not in process.stderr


def test_reset(tmp_path: Path) -> None:
    with ttp(tmp_path) as process:
        client = PlainClient(REST)
        register(client)
        with Database(f"sqlite:///{tmp_path / 'data' / 'database.db'}").write() as records:
            Ledger(records).add("align", {"collab_id": "c1", "project_id": "p1"}, {})
        model = tmp_path / "outputs" / "c1" / "p1" / "global_model.pt"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"weights")
        (tmp_path / "outputs" / "loose file").write_text("x")
        dry = subprocess.run(**command(tmp_path, "reset", "--dry-run"), check=True)
        assert model.exists()
        assert client.ok("GET", "connect/collaborations") != []
        done = subprocess.run(**command(tmp_path, "reset"), check=True)
        assert dry.stdout == done.stdout
        assert done.stdout.splitlines() == [
            "1 Collaboration record",
            "1 Project record",
            "1 Experiment record",
            "1 Run record",
            "2 Participant records",
            "2 Registration records",
            "2 Tag records",
            "1 Job record",
            str(tmp_path / "outputs" / "c1"),
            str(tmp_path / "outputs" / "loose file"),
        ]
        assert list((tmp_path / "outputs").iterdir()) == []
        # The running service goes on, from nothing.
        assert client.ok("GET", "connect/participants") == []
        register(client)
        stop(process)
    with exclusive(tmp_path / "data" / "jobs.lock"):
        refused = subprocess.run(**command(tmp_path, "reset"), check=False)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["-l", "graylog", "172.19.0.10"], "needs HOST and PORT"),
        (["-l", "graylog", "172.19.0.10", "x"], "PORT is a number from 1 to 65535, not 'x'"),
        (["-l", "graylog", "172.19.0.10", "9300", "--sysmetrics_port", "0"], "--sysmetrics_port is a number from 1"),
        (["-l", "syslog"], "'syslog' is not supported: use 'basic'"),
        (["-l", "basic", "more"], "takes nothing after it"),
        (["-r", "0"], "at least 1 second"),
        (["--cpus", "0"], "--cpus is at least 1"),
        (["--gpus", "-1"], "--gpus is at least 0"),
        (["--cpu", "1"], "invalid choice: '1' (choose from reset)"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], fragment: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(cli.parser("ttp", 5), arguments)
    assert caught.value.code == 2
    assert fragment in capsys.readouterr().err


def test_defaults_and_limits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = cli.parse(cli.parser("ttp", 5), [])
    assert (options.logging_variant, options.logging_resolution, options.command) == (["basic"], 5, "serve")
    assert options.id.startswith("ttp/")
    assert cli.parse(cli.parser("worker"), []).logging_resolution is None
    assert cli.parse(cli.parser("ttp"), ["--cpus", "100000"]).cpus == len(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    cli.limit_hardware(cli.parse(cli.parser("ttp"), ["--gpus", "0", "--cpus", "1"]))
    # 0 is a limit, not "unset".
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]) == ("", "1")
    with pytest.raises(SystemExit) as caught:
        cli.parse(cli.parser("ttp"), ["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out
