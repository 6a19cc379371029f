"""A whole cycle over the queue, by the Driver."""

from __future__ import annotations

import json
from pathlib import Path

from cluster import PARTICIPANTS, Cluster, ok, until


def test_cycle(cluster: Cluster) -> None:
    driver = cluster.driver
    keys = cluster.describe("cycle", runs=2)
    refused = driver.models.create(*keys)
    assert (refused["status"], "is not aligned for worker_1, worker_2" in refused["message"]) == (417, True)
    assert driver.alignments.read(*keys[:2])["status"] == 404
    reply = driver.alignments.create(*keys[:2])
    assert (reply["status"], reply["data"]) == (201, [])
    found = driver.alignments.wait(*keys[:2], timeout=120, interval=0.2)["data"]
    assert {record["key"]["participant_id"] for record in found} == set(PARTICIPANTS)
    assert driver.models.read(*keys)["status"] == 404
    reply = driver.models.create(*keys)
    assert (reply["status"], reply["data"]) == (200, [])
    [_, training] = cluster.done(collab_id="cycle")
    assert (training["state"], training.get("reason")) == ("done", None), training
    models = ok(driver.models.read(*keys))
    assert sorted(model["key"]["run_id"] for model in models) == ["run_1", "run_2"]
    outputs = cluster.root / "sync_director" / "outputs"
    for model in models:
        for part in ("global", "local_1", "local_2"):
            assert Path(model[part]["path"]).is_relative_to(outputs) and Path(model[part]["path"]).is_file()
            assert json.loads(Path(model[part]["loss_history"]).read_text())
    rounds = training["progress"]["rounds"]
    for run in ("run_1", "run_2"):
        assert [item["round"] for item in rounds if item["run_id"] == run] == list(range(1, 11))
    assert {part["state"] for part in training["progress"]["parts"]} == {"answered"}
    # The files live at the Director only.
    for number in (1, 2):
        folder = cluster.root / f"sync_ttp_{number}" / "outputs" / keys[0]
        until(lambda folder=folder: not list(folder.rglob("*.pt")))
    assert driver.validations.create(*keys)["data"] == []
    cluster.done(collab_id="cycle")
    assert len(ok(driver.validations.read(*keys))) == 4
    tags = {"diabetes": [["diabetes", "dataset", "data1", "predict"]]}
    assert driver.predictions.create(tags, "worker_1", *keys)["data"] == []
    jobs = cluster.done(collab_id="cycle")
    assert {job["state"] for job in jobs} == {"done"}, jobs
    assert len(ok(driver.predictions.read("worker_1", *keys))) == 2
