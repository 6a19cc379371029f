"""A component is killed while runs wait and run: all end, each once, with the figures of an undisturbed cluster."""

from __future__ import annotations

import time
from typing import Any

import docker
import pytest
import requests
from conftest import CONTAINERS, FULL, Director, eventually, healthy

ROUNDS = 100
RUNS = {f"run_{number}": {"seed": number, "rounds": ROUNDS, "patience": ROUNDS} for number in range(1, 5)}
VICTIMS = ("sync_mq", "sync_director", "sync_ttp_1", "sync_worker_1_n1")
WORKERS = [f"http://127.0.0.1:{port}/health" for port in (5001, 5002, 5003, 5004)]
# After which share of the rounds of a run on the first grid.
SHARES = (0.0, 0.5, 0.95) if FULL else (0.5,)


@pytest.fixture(scope="module")
def undisturbed(director: Director) -> dict[str, Any]:
    """Losses of the runs with everything up."""
    director.describe("calm", RUNS)
    director.align("calm")
    losses = director.trained("calm", RUNS)
    assert all(len(each["global_loss_history.json"]["train"]) == ROUNDS for each in losses.values())
    return losses


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_no_run_is_lost_or_stored_twice(
    undisturbed: dict[str, Any], director: Director, client: docker.DockerClient, victim: str, share: float
) -> None:
    collab = f"{victim}_{share}"
    director.describe(collab, RUNS)
    director.align(collab)
    for run_id in RUNS:
        assert director.call("POST", director.models(collab, run_id), {}) == []

    def reached() -> bool:
        here = [job for job in director.jobs(collab) if _on_the_first_grid(job)]
        return any(len(job["progress"]["rounds"]) >= ROUNDS * share for job in here)

    assert eventually(reached, interval=0.05), director.jobs(collab)
    container = client.containers.get(victim)
    container.kill()
    try:
        time.sleep(2)
    finally:
        container.start()
    assert director.losses(collab, director.ended(collab)) == undisturbed
    assert eventually(lambda: healthy(client, CONTAINERS), timeout=90)
    # No worker holds on to what was interrupted.
    assert eventually(lambda: not any(requests.get(url, timeout=5).json()["sessions"] for url in WORKERS))


def _on_the_first_grid(job: dict[str, Any]) -> bool:
    parts = [part for part in job["progress"]["parts"] if part["state"] == "taken"]
    return job["state"] == "running" and [part["ttp"] for part in parts] == ["sync_ttp_1"]
