"""Log server and experiment tracker may go away in the middle of a training: nothing changes, nothing is lost."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import pytest
import requests
from conftest import ROOT, SERVICES, TIER, TTP, Graylog, MLflow, eventually

ROUNDS = 200
RUN = "collaborations/demo/projects/breast_cancer/experiments/model/runs/long"
TRAIN = "train/collaborations/demo/projects/breast_cancer/models/model/long"
FOLDER = ROOT / "outputs" / TIER / "synp_ttp/demo/breast_cancer/model/long"


def lines(client: docker.DockerClient, name: str, since: float) -> list[str]:
    """Return the ids of all lines that a service wrote to its standard output."""
    text = client.containers.get(name).logs(stdout=True, stderr=False, since=since).decode()
    return [json.loads(line)["line_id"] for line in text.splitlines() if line.startswith("{")]


def train() -> dict[str, Any]:
    """Train the long run and return its loss history."""
    answer = requests.post(f"{TTP}/{TRAIN}", json={"auto_align": True}, timeout=600)
    assert answer.status_code == 200, answer.text
    return json.loads((FOLDER / "global_loss_history.json").read_text())


def until_round(number: int) -> None:
    """Wait until the training that runs now has ended so many rounds."""

    def reached() -> bool:
        jobs = requests.get(f"{TTP}/jobs", params={"process": "train", "state": "running"}, timeout=10).json()["data"]
        return any(len(job["progress"].get("rounds", [])) >= number for job in jobs)

    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, f"round {number} was not reached"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(said: str) -> dict[str, Any]:
    """Loss history of the long run with everything up."""
    settings = json.loads((ROOT / "examples/breast_cancer/hyperparameters.json").read_text())
    path = f"{TTP}/connect/{RUN.rsplit('/', 1)[0]}"
    made = requests.post(path, json={"run_id": "long", **settings, "rounds": ROUNDS}, timeout=30)
    assert made.status_code == 201, made.text
    return train()


def test_a_training_survives_the_loss_of_logger_and_tracker(
    undisturbed: dict[str, Any], client: docker.DockerClient, graylog: Graylog, mlflow: MLflow
) -> None:
    since = time.time()
    away = [client.containers.get(name) for name in ("synp_logger", "synp_mlops")]
    try:
        with ThreadPoolExecutor() as pool:
            training = pool.submit(train)
            until_round(ROUNDS // 10)
            for container in away:
                container.kill()
            history = training.result()
        assert all(container.attrs for container in away)
    finally:
        for container in away:
            container.start()
    assert history == undisturbed

    written = {name: lines(client, name, since) for name in SERVICES}
    assert all(written.values())
    for name, ids in written.items():
        assert len(ids) == len(set(ids))
        missing = eventually(lambda name=name, ids=ids: not missing_of(graylog, name, ids), timeout=120)
        assert missing, f"{name}: {missing_of(graylog, name, ids)} of {len(ids)} lines are not in Graylog"

    experiment_id = mlflow.experiments()["demo_>_breast_cancer_>_model"]

    def ended() -> dict[str, Any] | None:
        newest = next(each for each in mlflow.runs(experiment_id) if each["info"]["run_name"] == "long")
        return (
            newest if newest["info"]["status"] == "FINISHED" and newest["info"]["start_time"] > since * 1000 else None
        )

    run = eventually(ended, timeout=120)
    assert run
    for metric in ("global_train_loss", "global_evaluate_loss", "worker_1_local_loss", "worker_2_local_loss"):
        assert len(mlflow.history(run["info"]["run_id"], metric)) == ROUNDS


def missing_of(graylog: Graylog, name: str, ids: list[str]) -> int:
    """Return how many of the lines Graylog does not have."""
    return len(set(ids) - set(graylog.values(f'node:"{name}"', "line_id")))
