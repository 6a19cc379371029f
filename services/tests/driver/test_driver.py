"""The Driver against a running orchestrator, and what it puts on the wire."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from grid_double import MODEL, Grid, running

import synergos
from synergos import Driver, DriverError, JobFailed, ModelTask, RegistrationTask
from synergos.errors import GridFailure

KEYS = {"collab_id": "c1", "project_id": "p1"}
RUN = {**KEYS, "expt_id": "e1", "run_id": "r1"}


@pytest.fixture(scope="module")
def running_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    with running(tmp_path_factory.mktemp("driver")) as grid:
        yield grid


@pytest.fixture
def grid(running_grid: Grid) -> Grid:
    running_grid.clear()
    return running_grid


@pytest.fixture
def driver(grid: Grid) -> Driver:
    url = httpx.URL(grid.url)
    assert url.port
    return Driver(url.host, url.port)


def describe(driver: Driver) -> list[dict[str, Any]]:
    """Phase 1 as the notebooks write it."""
    answers = [
        driver.collaborations.create("c1"),
        driver.projects.create(
            collab_id="c1", project_id="p1", action="regress", incentives={"tier_1": [], "tier_2": []}
        ),
        driver.experiments.create(collab_id="c1", project_id="p1", expt_id="e1", model=MODEL),
        driver.runs.create(**RUN, rounds=2, epochs=1, base_lr=0.0005, max_lr=0.005, criterion="MSELoss"),
    ]
    for number, role in ((1, "host"), (2, "guest")):
        name = f"worker_{number}"
        answers.append(driver.participants.create(participant_id=name))
        registrations = driver.registrations
        registrations.add_node(host=f"172.18.0.{number + 2}", port=8020, f_port=5000, log_msgs=True, verbose=True)
        answers.append(registrations.create(**KEYS, participant_id=name, role=role))
        answers.append(
            driver.tags.create(
                **KEYS,
                participant_id=name,
                train=[["abalone", "dataset", f"data{number}", "train"]],
                evaluate=[["abalone", "dataset", f"data{number}", "evaluate"]],
            )
        )
    return answers


def test_the_notebooks_cycle(driver: Driver) -> None:
    assert [answer["status"] for answer in describe(driver)] == [201] * 10
    aligned = driver.alignments.create(**KEYS, verbose=False, log_msg=False)
    assert (aligned["status"], len(aligned["data"])) == (201, 2)
    assert driver.alignments.read(**KEYS)["data"] == aligned["data"]
    trained = driver.models.create(**RUN, log_msg=False, verbose=False)
    assert (trained["status"], trained["data"][0]["global"]["origin"]) == (200, "ttp")
    validated = driver.validations.create(**RUN)
    assert (validated["status"], len(validated["data"])) == (200, 2)
    predicted = driver.predictions.create(
        tags={"p1": [["abalone", "dataset", "data1", "predict"]]}, participant_id="worker_1", **RUN
    )
    assert (predicted["status"], len(predicted["data"])) == (200, 1)
    assert driver.models.read(**KEYS)["data"] == trained["data"]
    assert driver.validations.read(**RUN, participant_id="worker_2")["data"] == validated["data"][1:]
    assert driver.predictions.read(participant_id="worker_1", collab_id="c1")["data"] == predicted["data"]
    space = {"lr": {"_type": "uniform", "_value": [0.0, 0.1]}}
    refused = driver.optimizations.create("c1", "p1", "e1", search_space=space, metric="R2", optimize_mode="max")
    assert (refused["status"], refused["data"]) == (403, [])
    assert driver.optimizations.read("c1", "p1", "e1")["status"] == 403


def test_records(driver: Driver) -> None:
    describe(driver)
    members = driver.registrations
    for scope in (
        {"participant_id": "worker_1"},
        {"collab_id": "c1", "participant_id": "worker_1"},
        {"collab_id": "c1"},
        {"collab_id": "c1", "project_id": "p1"},
    ):
        found = members.read_all(**scope)["data"]
        assert len(found) == (1 if "participant_id" in scope else 2)
    assert members.read_all("c1", "p1", "worker_1")["data"]["role"] == "host"
    with pytest.raises(ValueError, match="Give a participant_id"):
        members.read_all(project_id="p1")
    assert driver.runs.update(**RUN, rounds=9)["data"]["rounds"] == 9
    assert driver.runs.read(**RUN)["data"]["max_lr"] == 0.005
    # The original lost these.
    assert driver.runs.read(**RUN)["data"]["is_condensed"] is True
    driver.projects.create("c1", "p2", "classify", {}, start_at="2021-09-01", note="dropped")
    assert driver.projects.read("c1", "p2")["data"]["start_at"] == "2021-09-01"
    assert driver.tags.update("c1", "p1", "worker_1", predict=[["x"]])["data"]["predict"] == [["x"]]
    assert driver.participants.update("worker_1", summary="A bank")["data"]["summary"] == "A bank"
    counts = [
        len(driver.collaborations.read_all()["data"]),
        len(driver.projects.read_all("c1")["data"]),
        len(driver.experiments.read_all("c1", "p1")["data"]),
        len(driver.runs.read_all("c1", "p1", "e1")["data"]),
        len(driver.participants.read_all()["data"]),
    ]
    assert counts == [1, 2, 1, 1, 2]
    for answer in (
        driver.tags.delete("c1", "p1", "worker_1"),
        driver.registrations.delete("c1", "p1", "worker_1"),
        driver.participants.delete("worker_1"),
        driver.runs.delete(**RUN),
        driver.experiments.delete("c1", "p1", "e1"),
        driver.projects.delete("c1", "p1"),
        driver.collaborations.delete("c1"),
    ):
        assert answer["status"] == 200
    missing = driver.collaborations.read("c1")
    assert (missing["status"], missing["data"]) == (404, [])


def test_components_are_noted_then_sent_once(driver: Driver) -> None:
    task = driver.collaborations
    logs = task.configure_logger(
        "172.19.0.10", 9000, sysmetrics_port=9100, director_port=9200, ttp_port=9300, worker_port=9400, ui_port=9000
    )
    ports = {"main": 9000, "ui": 9000, "sysmetrics": 9100, "director": 9200, "ttp": 9300, "worker": 9400}
    assert logs == {"logs": {"host": "172.19.0.10", "ports": ports, "secure": False}}
    mlops = task.configure_mlops("172.19.0.11", 5500, ui_port=5500)
    created = task.create("c1")["data"]
    assert {name: created[name] for name in ("logs", "mlops")} == {**logs, **mlops}
    assert "mlops" not in task.create("c2")["data"]
    mq = driver.collaborations.configure_mq("172.20.0.16", 5672, 15672)
    assert driver.collaborations.update("c2", **mq)["data"]["mq"] == mq["mq"]


def test_nodes(driver: Driver) -> None:
    describe(driver)
    task = driver.registrations
    assert [task.add_node("h0", 8020, 5000), task.add_node("h1", 8020, 5000)] == ["node_0", "node_1"]
    assert task.add_node("h0", 8020, 5000) == "node_0"
    assert task.remove_node("node_0")["host"] == "h0"
    assert (task.count_nodes(), [node["host"] for node in task.list_nodes()]) == (1, ["h1"])
    with pytest.raises(KeyError, match="node_1"):
        task.remove_node("node_1")
    # A new registration takes the place of the old one, tags included.
    again = task.create("c1", "p1", "worker_1", role="arbiter")
    assert (again["status"], again["data"]["node_0"]["host"]) == (201, "h1")
    assert driver.tags.read("c1", "p1", "worker_1")["status"] == 404
    assert task.count_nodes() == 0
    with pytest.raises(RuntimeError, match="add_node first"):
        task.create("c1", "p1", "worker_1", role="host")
    # Without nodes nothing has been sent: the registration is still there.
    assert driver.registrations.read("c1", "p1", "worker_1")["status"] == 200


def test_incomplete_and_unsupported_calls(driver: Driver) -> None:
    with pytest.raises(ValueError, match="without a gap"):
        driver.models.create("c1", "p1", run_id="r1")
    with pytest.raises(ValueError, match="without a gap"):
        driver.predictions.read("w", "c1", expt_id="e1")
    for call in (driver.alignments.delete, driver.models.update, driver.tags.read_all, driver.validations.read_all):
        with pytest.raises(NotImplementedError):
            call()


def test_errors_that_raise(grid: Grid) -> None:
    url = httpx.URL(grid.url)
    strict = Driver(url.host, url.port or 0, raise_on_error=True)
    with pytest.raises(DriverError, match="404: Collaboration") as caught:
        strict.collaborations.read("nix")
    assert caught.value.status == 404
    describe(strict)
    with pytest.raises(DriverError, match="rounds") as caught:
        strict.runs.update(**RUN, rounds="many")
    assert caught.value.status == 417
    closed = ModelTask("http://127.0.0.1:1", raise_on_error=True)
    with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:1/ttp/jobs.*refused"):
        closed.wait("c1", "p1", timeout=0.1, interval=0.05)
    with pytest.raises(DriverError, match=r"127\.0\.0\.1:1/ttp/train") as caught:
        closed.read("c1", "p1")
    assert caught.value.status is None
    with pytest.raises(httpx.ConnectError, match=r"GET http://127\.0\.0\.1:1/ttp/train.*: .*refused"):
        ModelTask("http://127.0.0.1:1").read("c1", "p1")


def test_waiting(driver: Driver, grid: Grid) -> None:
    describe(driver)
    with pytest.raises(TimeoutError, match=r"No data after 0.1 s: Models does not exist"):
        driver.models.wait(**RUN, timeout=0.1, interval=0.02)
    driver.alignments.create(**KEYS)
    grid.engine.gate.clear()
    training = threading.Thread(target=driver.models.create, kwargs=RUN)
    training.start()
    threading.Timer(0.2, grid.engine.gate.set).start()
    assert driver.models.wait(**RUN, timeout=20, interval=0.05)["data"][0]["kind"] == "Model"
    training.join()
    with pytest.raises(DriverError, match="403: Optimization"):
        driver.optimizations.wait("c1", "p1", "e1", timeout=20)


def test_waiting_for_what_fails(driver: Driver, grid: Grid) -> None:
    describe(driver)
    driver.runs.create(**{**RUN, "run_id": "r2"})
    driver.alignments.create(**KEYS)
    assert driver.models.create(**{**RUN, "run_id": "r2"})["status"] == 200
    grid.engine.failing["train"] = GridFailure("worker_2 is out of memory.")
    assert driver.models.create(**RUN)["status"] == 417
    driver.validations.create(**{**RUN, "run_id": "r2"})
    # There is a model in this scope, and yet not all that was asked for.
    with pytest.raises(JobFailed, match=r"^train of c1/p1/e1/r1 failed: worker_2 is out of memory\.$") as caught:
        driver.models.wait(**KEYS, timeout=20)
    (job,) = caught.value.jobs
    assert (caught.value.status, job["key"]["run_id"]) == (None, "r1")
    with pytest.raises(JobFailed, match="out of memory"):
        driver.jobs.wait(job["job_id"], timeout=20)
    # Elsewhere nothing failed.
    assert len(driver.models.wait(**{**RUN, "run_id": "r2"}, timeout=20)["data"]) == 1
    assert len(driver.validations.wait(**KEYS, timeout=20)["data"]) == 2
    # What was done again counts as it ended then.
    grid.engine.failing.clear()
    driver.models.create("c1", "p1", "e1")
    assert len(driver.models.wait(**KEYS, timeout=20)["data"]) == 2
    last = driver.jobs.read_all(process="train")["data"][-1]
    assert driver.jobs.wait(last["job_id"], timeout=20)["data"]["state"] == "done"
    driver.tags.delete("c1", "p1", "worker_1")
    driver.tags.delete("c1", "p1", "worker_2")
    with pytest.raises(DriverError, match="404: MFA has not been performed"):
        driver.alignments.wait(**KEYS, timeout=20)


def test_jobs(driver: Driver, grid: Grid) -> None:
    describe(driver)
    driver.alignments.create(**KEYS)
    grid.engine.gate.clear()
    replies: list[dict[str, Any]] = []
    training = threading.Thread(target=lambda: replies.append(driver.models.create(**RUN)))
    training.start()
    while not driver.jobs.read_all(**RUN, state="running")["data"]:
        time.sleep(0.01)
    followed = driver.jobs.follow(run_id="r1", interval=0.01)
    first = next(followed)
    assert (first["process"], first["state"]) == ("train", "running")
    validating = threading.Thread(target=lambda: replies.append(driver.validations.create(**KEYS)))
    validating.start()
    while not (queued := driver.jobs.read_all(state="queued", process="validate")["data"]):
        time.sleep(0.01)
    assert queued[0]["place"] == 1
    assert driver.jobs.delete(queued[0]["job_id"])["data"]["state"] == "cancelled"
    validating.join()
    grid.engine.gate.set()
    *_, last = followed
    training.join()
    assert (last["state"], len(last["progress"]["rounds"])) == ("done", 2)
    assert last == driver.jobs.read(last["job_id"])["data"]
    assert [reply["status"] for reply in replies] == [409, 200]
    assert [job["process"] for job in driver.jobs.read_all(**KEYS)["data"]] == ["align", "train", "validate"]
    # As for every other resource, an error is an answer; only following needs a job.
    assert driver.jobs.delete(last["job_id"])["status"] == 409
    assert driver.jobs.read("nix")["status"] == 404
    for missing in ({"job_id": "nix"}, {"run_id": "nix"}):
        with pytest.raises(DriverError, match="404: "):
            next(driver.jobs.follow(**missing))


def test_ids_are_quoted(driver: Driver) -> None:
    driver.collaborations.create("a b")
    assert driver.collaborations.read("a b")["data"]["key"] == {"collab_id": "a b"}
    assert "'a?b#c'" in driver.collaborations.read("a?b#c")["message"]


class _Recorder(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, Any]]

    def _answer(self) -> None:
        if not self.path.endswith("/"):
            # As the original: the collection is at the URL with a slash.
            self.send_response(308)
            self.send_header("Location", f"{self.path}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        self.seen.append((self.command, self.path, json.loads(content) if content else None))
        body = b'{"message": "no status here"}'
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    handler = type("Handler", (_Recorder,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.seen
    server.shutdown()
    server.server_close()


FLAGS = {"auto_align": True, "dockerised": True, "verbose": True, "log_msgs": True}
QUIET = {**FLAGS, "verbose": False, "log_msgs": False}


@pytest.mark.parametrize(
    ("call", "verb", "path", "body"),
    [
        (
            lambda a: synergos.ParticipantTask(a).create("w"),
            "POST",
            "/ttp/connect/participants/",
            {"id": "w", "category": None, "summary": None, "phone": None, "email": None, "socials": None},
        ),
        (
            lambda a: synergos.ProjectTask(a).create("c", "p", "regress", {}),
            "POST",
            "/ttp/connect/collaborations/c/projects/",
            {"collab_id": "c", "project_id": "p", "action": "regress", "incentives": {}},
        ),
        (
            lambda a: synergos.RunTask(a).create("c", "p", "e", "r", base_lr=0.1),
            "POST",
            "/ttp/connect/collaborations/c/projects/p/experiments/e/runs/",
            {
                "run_id": "r",
                "algorithm": "FedProx",
                "rounds": 10,
                "epochs": 100,
                "lr": 0.001,
                "weight_decay": 0.0,
                "lr_decay": 0.1,
                "mu": 0.1,
                "l1_lambda": 0.0,
                "l2_lambda": 0.0,
                "optimizer": "SGD",
                "criterion": "BCELoss",
                "lr_scheduler": "CyclicLR",
                "delta": 0.0,
                "patience": 10,
                "seed": 42,
                "is_condensed": True,
                "is_snn": False,
                "precision_fractional": 5,
                "base_lr": 0.1,
            },
        ),
        (
            lambda a: synergos.AlignmentTask(a).create("c", "p", log_msg=True),
            "POST",
            "/ttp/train/collaborations/c/projects/p/alignments/",
            {"auto_align": True, "auto_fix": True},
        ),
        (
            lambda a: synergos.ModelTask(a).create("c", "p"),
            "POST",
            "/ttp/train/collaborations/c/projects/p/models/",
            FLAGS,
        ),
        (
            lambda a: synergos.OptimizationTask(a).create("c", "p", "e", {"lr": {}}, "R2", "max", backend="tune"),
            "POST",
            "/ttp/train/collaborations/c/projects/p/models/e/optimizations/",
            {
                "search_space": {"lr": {}},
                "metric": "R2",
                "optimize_mode": "max",
                "trial_concurrency": 1,
                "max_exec_duration": "1h",
                "max_trial_num": 10,
                "is_remote": True,
                "use_annotation": True,
                **FLAGS,
                "backend": "tune",
            },
        ),
        (
            lambda a: synergos.ValidationTask(a).create("c", "p", "e", "r", "w"),
            "POST",
            "/ttp/evaluate/collaborations/c/projects/p/validations/e/r/w/",
            QUIET,
        ),
        (
            lambda a: synergos.PredictionTask(a).create({"p": [["d"]]}, "w", "c", "p", "e"),
            "POST",
            "/ttp/evaluate/participants/w/collaborations/c/predictions/p/e/",
            {"tags": {"p": [["d"]]}, **QUIET},
        ),
        (
            lambda a: synergos.TagTask(a).create("c", "p", "w", [["d"]], model=["m"], other=1),
            "POST",
            "/ttp/connect/collaborations/c/projects/p/participants/w/registration/tags/",
            {"train": [["d"]], "evaluate": [], "predict": [], "model": ["m"]},
        ),
        (
            lambda a: synergos.ExperimentTask(a).update("c", "p", "e", model=[]),
            "PUT",
            "/ttp/connect/collaborations/c/projects/p/experiments/e/",
            {"model": []},
        ),
    ],
)
def test_the_wire_to_an_original_server(
    recorder: tuple[str, list[tuple[str, str, Any]]],
    call: Callable[[str], dict[str, Any]],
    verb: str,
    path: str,
    body: dict[str, Any],
) -> None:
    address, seen = recorder
    # An error is returned as it is, and a redirect keeps verb and body.
    assert call(address) == {"message": "no status here"}
    assert seen == [(verb, path, body)]


def test_registering_at_an_original_server(recorder: tuple[str, list[tuple[str, str, Any]]]) -> None:
    address, seen = recorder
    task = RegistrationTask(address)
    task.add_node("h", 8020, 5000)
    task.create("c", "p", "w", role="host")
    # Nothing is deleted where the original says 404 without a status.
    assert [verb for verb, _, _ in seen] == ["GET", "POST"]
    node = {"host": "h", "port": 8020, "f_port": 5000, "log_msgs": False, "verbose": False}
    assert seen[1][2] == {"role": "host", "n_count": 1, "node_0": node}


def test_importing_the_driver_loads_only_the_client() -> None:
    code = (
        "import sys, synergos; before = set(sys.modules); assert 'httpx' not in before; "
        "from synergos import Driver, TagTask; Driver('h', 1); "
        "heavy = {'fastapi', 'pydantic', 'sqlalchemy', 'torch', 'structlog', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
