"""Log server and experiment tracker may go away in the middle of a training: nothing changes, nothing is lost."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import pytest
import requests
from conftest import FULL, ROOT, SERVICES, TIER, TTP, Graylog, MLflow, eventually, inspect

ROUNDS = 200
EXPERIMENT = "demo_>_breast_cancer_>_model"
RUNS = "connect/collaborations/demo/projects/breast_cancer/experiments/model/runs"
TRAIN = "train/collaborations/demo/projects/breast_cancer/models/model/long"
HISTORY = ROOT / "outputs" / TIER / "synp_ttp/demo/breast_cancer/model/long/global_loss_history.json"
METRICS = ("global_train_loss", "global_evaluate_loss", "worker_1_local_loss", "worker_2_local_loss")

# Who goes, how, and after which share of the rounds.
FAULTS = [(("synp_logger", "synp_mlops"), "SIGKILL", 0.1)]
if FULL:
    alone = [(name,) for name in ("synp_logger", "synp_mlops", "elasticsearch", "mongo")]
    FAULTS += [(who, how, when) for who in alone for how in ("SIGKILL", "SIGSTOP") for when in (0.0, 0.5, 0.95)]


def lines(client: docker.DockerClient, name: str, since: float) -> set[str]:
    """Return the ids of all lines that a service wrote to its standard output."""
    text = client.containers.get(name).logs(stdout=True, stderr=False, since=since).decode()
    return {json.loads(line)["line_id"] for line in text.splitlines() if line.startswith("{")}


def health(client: docker.DockerClient, name: str) -> str:
    """Return what the container's check says."""
    return str(inspect(client, name)["State"]["Health"]["Status"])


def train() -> dict[str, Any]:
    """Train the long run and return its loss history."""
    answer = requests.post(f"{TTP}/{TRAIN}", json={"auto_align": True}, timeout=600)
    assert answer.status_code == 200, answer.text
    history: dict[str, Any] = json.loads(HISTORY.read_text())
    return history


def until_round(number: int) -> None:
    """Wait until the training that runs now has ended so many rounds."""

    def reached() -> bool:
        jobs = requests.get(f"{TTP}/jobs", params={"process": "train"}, timeout=10).json()["data"]
        job = requests.get(f"{TTP}/jobs/{jobs[-1]['job_id']}", timeout=10).json()["data"]
        return job["state"] == "running" and len(job["progress"].get("rounds", [])) >= number

    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, f"round {number} was not reached"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(said: str) -> dict[str, Any]:
    """Loss history of the long run with everything up."""
    settings = json.loads((ROOT / "examples/breast_cancer/hyperparameters.json").read_text())
    settings |= {"run_id": "long", "rounds": ROUNDS, "patience": ROUNDS}
    made = requests.post(f"{TTP}/{RUNS}", json=settings, timeout=30)
    assert made.status_code == 201, made.text
    history = train()
    assert len(history["train"]) == ROUNDS
    return history


@pytest.mark.parametrize(("victims", "signal", "share"), FAULTS)
def test_a_training_does_not_notice(
    undisturbed: dict[str, Any],
    client: docker.DockerClient,
    graylog: Graylog,
    mlflow: MLflow,
    victims: tuple[str, ...],
    signal: str,
    share: float,
) -> None:
    since = time.time()
    away = [client.containers.get(name) for name in victims]
    try:
        with ThreadPoolExecutor() as pool:
            training = pool.submit(train)
            until_round(int(ROUNDS * share))
            for container in away:
                container.kill(signal)
            assert not training.done(), "the training was over too early to be disturbed"
            assert training.result() == undisturbed
    finally:
        for container in away:
            if signal == "SIGSTOP":
                container.kill("SIGCONT")
            else:
                container.start()
    for name in (*victims, "synp_logger"):
        assert eventually(lambda name=name: health(client, name) == "healthy", timeout=300), f"{name} does not recover"

    for name in SERVICES:
        written = lines(client, name, since)
        assert written

        def missing(name: str = name, written: set[str] = written) -> set[str]:
            return written - set(graylog.values(f'node:"{name}"', "line_id"))

        arrived = eventually(lambda missing=missing: not missing(), timeout=120)
        assert arrived, f"{len(missing())} of {len(written)} lines of {name} are not in Graylog"

    def ended() -> dict[str, Any] | None:
        runs = [each for each in mlflow.runs(mlflow.experiments()[EXPERIMENT]) if each["info"]["run_name"] == "long"]
        info = runs[0]["info"] if runs else {}
        return runs[0] if info.get("status") == "FINISHED" and info["start_time"] > since * 1000 else None

    run = eventually(ended, timeout=120)
    assert run, "MLflow does not have the run"
    for metric in METRICS:
        assert len(mlflow.history(run["info"]["run_id"], metric)) == ROUNDS
