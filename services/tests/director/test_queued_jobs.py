"""What becomes of jobs, whatever dies meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import loopback
from cluster import PARTICIPANTS, Cluster, Keys, full, ok, until

from synergos import Driver


def trained(cluster: Cluster, collab: str) -> Counter[str]:
    """Count how often each run of a collaboration was begun."""
    return Counter(entry["run_id"] for entry in cluster.events("training begins") if entry["collab_id"] == collab)


def losses(driver: Driver, keys: Keys, run: str = "run_1") -> Any:
    """Return the loss history of a model."""
    [model] = ok(driver.models.read(*keys, run))
    return json.loads(Path(model["global"]["loss_history"]).read_text())


def rounds(cluster: Cluster, collab: str) -> int:
    [job] = cluster.jobs(collab_id=collab, process="train")
    return len(job["progress"]["rounds"])


def again(cluster: Cluster, keys: Keys) -> Any:
    """Return the losses of the same run, undisturbed."""
    ok(cluster.driver.models.create(*keys, "run_1"))
    assert cluster.done(collab_id=keys[0])[-1]["state"] == "done"
    return losses(cluster.driver, keys)


def test_twelve_runs_are_done_once_each_by_both_grids(cluster: Cluster) -> None:
    keys = cluster.describe("twelve", runs=12)
    cluster.align(keys)
    names = [f"run_{number}" for number in range(1, 13)]
    seconds = []
    for name in names:
        begin = time.monotonic()
        assert ok(cluster.driver.models.create(*keys, name)) == []
        seconds.append(time.monotonic() - begin)
    print("submission, seconds:", [round(each, 3) for each in seconds])
    jobs = cluster.done(collab_id="twelve", process="train")
    assert [job["state"] for job in jobs] == ["done"] * 12
    assert trained(cluster, "twelve") == dict.fromkeys(names, 1)
    parts = [part for job in jobs for part in job["progress"]["parts"]]
    assert {part["ttp"] for part in parts} == {"sync_ttp_1", "sync_ttp_2"}
    assert {part["attempt"] for part in parts} == {1}
    models = ok(cluster.driver.models.read(*keys))
    assert sorted(model["key"]["run_id"] for model in models) == sorted(names)
    assert len({json.dumps(losses(cluster.driver, keys, name)) for name in names}) == 12


def test_figures_are_those_of_a_single_ttp(cluster: Cluster) -> None:
    keys = cluster.describe("figures")
    address, root = "127.0.9.1", cluster.root / "basic"
    process = loopback._start(root, address, "ttp")
    try:
        loopback._wait(process, address, root / "log")
        basic = Driver(address, 5000)
        cluster.describe("figures", driver=basic)
        found = {}
        for driver in (basic, cluster.driver):
            ok(driver.alignments.create(*keys[:2]))
            driver.alignments.wait(*keys[:2], timeout=120, interval=0.2)
            ok(driver.models.create(*keys))
            driver.models.wait(*keys, timeout=120, interval=0.2)
            ok(driver.validations.create(*keys))
            until(lambda driver=driver: len(driver.validations.read(*keys)["data"]) == 2)
            statistics = {
                record["key"]["participant_id"]: record["evaluate"]["statistics"]
                for record in ok(driver.validations.read(*keys))
            }
            found[driver] = losses(driver, keys), statistics
        assert found[basic] == found[cluster.driver]
    finally:
        process.terminate()
        process.wait(30)


def test_a_ttp_is_killed_in_the_middle(cluster: Cluster) -> None:
    keys = cluster.describe("ttp killed", rounds=300)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    until(lambda: rounds(cluster, "ttp killed") > 5)
    [job] = cluster.jobs(collab_id="ttp killed", process="train")
    [part] = job["progress"]["parts"]
    assert (job["state"], part["state"]) == ("running", "taken")
    cluster.kill(part["ttp"])
    try:
        [job] = cluster.done(collab_id="ttp killed", process="train")
    finally:
        cluster.start(part["ttp"])
    assert job["state"] == "done", job
    [taken] = job["progress"]["parts"]
    assert taken["ttp"] != part["ttp"] and taken["attempt"] == 1
    assert [item["round"] for item in job["progress"]["rounds"]] == list(range(1, 301))
    assert losses(cluster.driver, keys) == again(cluster, keys)

    def sessions() -> int:
        workers = [address for name, address in cluster.addresses.items() if name.startswith("worker")]
        return sum(httpx.get(f"http://{address}:5000/health").json()["sessions"] for address in workers)

    # The TTP that came back has freed those of its grid.
    until(lambda: sessions() == 0)


def test_the_director_is_killed(cluster: Cluster) -> None:
    keys = cluster.describe("director killed", runs=8, rounds=60)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    until(lambda: rounds(cluster, "director killed") > 5)
    for _ in range(2):
        cluster.kill("sync_director")
        time.sleep(2)
        cluster.start("sync_director")
    [job] = cluster.done(collab_id="director killed", process="train")
    assert job["state"] == "done", job
    assert trained(cluster, "director killed") == {f"run_{number}": 1 for number in range(1, 9)}
    assert len(ok(cluster.driver.models.read(*keys))) == 8
    for name in ("preprocess", "train", "evaluate", "completed", "dead"):
        assert cluster.rabbit.count(name) == 0


@full
def test_the_director_is_killed_while_grids_answer(cluster: Cluster) -> None:
    """What is answered, and what is ordered, while there is no Director, or just before it dies."""
    keys = cluster.describe("director away", runs=3, rounds=100)
    ok(cluster.driver.alignments.create(*keys[:2]))
    cluster.kill("sync_director")
    time.sleep(3)
    cluster.start("sync_director")
    cluster.driver.alignments.wait(*keys[:2], timeout=60, interval=0.2)
    for number in (1, 2, 3):
        ok(cluster.driver.models.create(*keys, f"run_{number}"))
    cluster.kill("sync_director")
    time.sleep(5)
    cluster.start("sync_director")
    jobs = cluster.done(collab_id="director away")
    assert [job["state"] for job in jobs] == ["done"] * 4, jobs
    assert len(ok(cluster.driver.models.read(*keys))) == 3
    ok(cluster.driver.validations.create(*keys))
    cluster.kill("sync_director")
    cluster.start("sync_director")
    assert cluster.done(collab_id="director away")[-1]["state"] == "done"
    assert len(ok(cluster.driver.validations.read(*keys))) == 6


def test_a_failure_is_told_once(cluster: Cluster) -> None:
    keys = cluster.describe("failing", min_participants=3)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    [job] = cluster.done(collab_id="failing", process="train")
    assert (job["state"], "min_participants is 3" in job["reason"]) == ("failed", True)
    time.sleep(1)
    [same] = cluster.jobs(collab_id="failing", process="train")
    assert (same["state"], same["ended_at"]) == ("failed", job["ended_at"])
    assert cluster.driver.models.read(*keys)["status"] == 404
    assert (cluster.rabbit.count("train"), cluster.rabbit.count("dead")) == (0, 0)


def test_cancelling(cluster: Cluster) -> None:
    keys = cluster.describe("cancelled", runs=6, rounds=5000, epochs=5)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    until(lambda: rounds(cluster, "cancelled") > 5)

    def busy() -> list[Any]:
        states = [httpx.get(f"http://127.0.1.{grid}:5000/state").json() for grid in (1, 2)]
        assert [state["grid"] for state in states] == [0, 1]
        return [state["job"] for state in states if state["job"]]

    until(lambda: len(busy()) == 2)
    [job] = cluster.jobs(collab_id="cancelled", process="train")
    assert {each["job_id"] for each in busy()} == {job["job_id"]}
    reply = cluster.driver.jobs.delete(job["job_id"])
    assert reply["data"]["state"] == "cancelled", reply
    # What was at the broker is not begun any more.
    until(lambda: not busy() and cluster.rabbit.count("train") == 0)
    assert len(trained(cluster, "cancelled")) <= 3
    assert cluster.driver.models.read(*keys)["status"] == 404


def test_the_broker_is_away(cluster: Cluster) -> None:
    keys = cluster.describe("no broker", runs=3, rounds=150)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys, "run_1"))
    until(lambda: rounds(cluster, "no broker") > 2)
    cluster.rabbit.kill()
    until(lambda: "away" in str(cluster.driver.models.create(*keys, "run_2").get("message")), 20)
    begin = time.monotonic()
    reply = cluster.driver.models.create(*keys, "run_3")
    assert (reply["status"], reply["data"]) == (200, []) and time.monotonic() - begin < 2
    time.sleep(2)
    cluster.rabbit.start()
    jobs = cluster.done(collab_id="no broker", process="train")
    assert {job["state"] for job in jobs} == {"done"}, jobs
    assert len(ok(cluster.driver.models.read(*keys))) == 3


def test_a_dead_letter_is_put_back(cluster: Cluster) -> None:
    """A job over which every grid dies fails; put back once the reason is gone, it is done after all."""
    keys = cluster.describe("dead", rounds=200)
    cluster.align(keys)
    cluster.rabbit.policy(**{"delivery-limit": 1})
    ttps = ["sync_ttp_1", "sync_ttp_2"]
    try:
        ok(cluster.driver.models.create(*keys))
        for _ in ttps:
            begun = trained(cluster, "dead").total()
            until(lambda begun=begun: trained(cluster, "dead").total() > begun or cluster.rabbit.count("dead"))
            if cluster.rabbit.count("dead"):
                break
            cluster.kill(*ttps)
            cluster.start(*ttps)
        [job] = cluster.done(collab_id="dead", process="train")
        assert (job["state"], "the broker gave it up (delivery_limit)" in job["reason"]) == ("failed", True), job
    finally:
        cluster.rabbit.policy()
    assert cluster.rabbit.count("dead") == 1
    cluster.replay()
    until(lambda: [job["state"] for job in cluster.jobs(collab_id="dead", process="train")] == ["done"], 120)
    assert len(ok(cluster.driver.models.read(*keys))) == 1
    assert cluster.rabbit.count("dead") == 0


@full
def test_a_grid_without_its_workers(cluster: Cluster) -> None:
    """Its jobs go to the other grid; without any, they fail and say why."""
    keys = cluster.describe("away", runs=3)
    cluster.align(keys)
    gone = [f"{name}_n2" for name in PARTICIPANTS]
    cluster.kill(*gone)
    try:
        ok(cluster.driver.models.create(*keys))
        [job] = cluster.done(collab_id="away", process="train")
        assert job["state"] == "done", job
        assert {part["ttp"] for part in job["progress"]["parts"]} == {"sync_ttp_1"}
        gone += [f"{name}_n1" for name in PARTICIPANTS]
        cluster.kill(*gone[2:])
        ok(cluster.driver.models.create(*keys, "run_1"))
        job = cluster.done(collab_id="away", process="train")[-1]
        assert (job["state"], "worker_1 cannot be reached" in job["reason"]) == ("failed", True), job
        assert [part["attempt"] for part in job["progress"]["parts"]] == [2]
    finally:
        cluster.start(*gone)


def test_one_worker_per_participant(cluster: Cluster) -> None:
    """The grids share them."""
    keys = cluster.describe("few", grids=1, runs=4)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    [job] = cluster.done(collab_id="few", process="train")
    assert job["state"] == "done", job
    model = ok(cluster.driver.models.read(*keys, "run_1"))[0]
    assert {model[f"local_{number}"]["origin"] for number in (1, 2)} == set(PARTICIPANTS)
