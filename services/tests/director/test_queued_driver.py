"""The Driver waits for what the grids of a cluster do; the same calls work on a TTP that does it itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import loopback
import pytest
from cluster import PARTICIPANTS, Cluster, ok, until

from synergos import Driver, JobFailed

PATIENCE = {"timeout": 170, "interval": 0.2}


@pytest.fixture(scope="module")
def basic(cluster: Cluster) -> Iterator[Driver]:
    """A TTP that does its jobs itself."""
    address, root = "127.0.9.2", cluster.root / "driven"
    process = loopback._start(root, address, "ttp")
    try:
        loopback._wait(process, address, root / "log")
        yield Driver(address, 5000)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("tier", ["cluster", "basic"])
def test_the_same_calls_on_every_tier(cluster: Cluster, basic: Driver, tier: str) -> None:
    driver = cluster.driver if tier == "cluster" else basic
    keys = cluster.describe("calls", runs=5, rounds=3, driver=driver)
    ok(driver.alignments.create(*keys[:2]))
    assert len(driver.alignments.wait(*keys[:2], **PATIENCE)["data"]) == 2
    # One by one, then all at once: each time all are there.
    for number in range(1, 6):
        ok(driver.models.create(*keys, f"run_{number}"))
    assert len(driver.models.wait(*keys, **PATIENCE)["data"]) == 5
    ok(driver.runs.delete(*keys, "run_5"))
    assert len(driver.models.wait(*keys[:2], **PATIENCE)["data"]) == 4
    ok(driver.models.create(*keys[:2]))
    assert len(driver.models.wait(*keys[:2], **PATIENCE)["data"]) == 4
    assert [job["state"] for job in ok(driver.jobs.read_all(process="train", collab_id="calls"))] == ["done"] * 5
    ok(driver.validations.create(*keys))
    assert len(driver.validations.wait(*keys, **PATIENCE)["data"]) == 8
    for number, name in enumerate(PARTICIPANTS, 1):
        tags = {"diabetes": [["diabetes", "dataset", f"data{number}", "predict"]]}
        ok(driver.predictions.create(tags, name, *keys))
    for name in PARTICIPANTS:
        found = driver.predictions.wait(name, *keys, **PATIENCE)["data"]
        assert [record["predict"]["statistics"].keys() > {"R2"} for record in found] == [True] * 4


def test_a_job_that_fails_ends_the_waiting(cluster: Cluster) -> None:
    driver = cluster.driver
    keys = cluster.describe("fails", runs=2, rounds=2)
    cluster.align(keys)
    driver.runs.update(*keys, "run_2", min_participants=3)
    ok(driver.models.create(*keys))
    with pytest.raises(JobFailed, match=r"train of fails/diabetes/linear failed: .*min_participants is 3"):
        driver.models.wait(*keys, **PATIENCE)
    driver.runs.update(*keys, "run_2", min_participants=2)
    ok(driver.models.create(*keys, "run_2"))
    assert driver.models.wait(*keys, "run_2", **PATIENCE)["data"][0]["key"]["run_id"] == "run_2"


def test_waiting_outlasts_a_director_that_is_away(cluster: Cluster) -> None:
    keys = cluster.describe("outlasts", runs=2, rounds=40)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(cluster.driver.models.wait, *keys, **PATIENCE)
        cluster.kill("sync_director")
        time.sleep(1)
        assert not waiting.done()
        cluster.start("sync_director")
        assert len(waiting.result(120)["data"]) == 2


def test_a_cancelled_job_ends_the_waiting(cluster: Cluster) -> None:
    driver = cluster.driver
    keys = cluster.describe("called off", rounds=5000, epochs=5)
    cluster.align(keys)
    ok(driver.models.create(*keys))
    with pytest.raises(TimeoutError, match=r"No data after 1 s: 1 of 1 jobs \(train\) wait or run"):
        driver.models.wait(*keys, timeout=1, interval=0.2)
    [job] = cluster.jobs(collab_id="called off", process="train")
    with pytest.raises(TimeoutError, match="is running"):
        driver.jobs.wait(job["job_id"], timeout=0.5, interval=0.2)
    begin = time.monotonic()
    driver.jobs.delete(job["job_id"])
    with pytest.raises(JobFailed, match="cancelled: Cancelled by DELETE"):
        driver.models.wait(*keys, **PATIENCE)
    assert time.monotonic() - begin < 30
    until(lambda: cluster.rabbit.count("train") == 0)
