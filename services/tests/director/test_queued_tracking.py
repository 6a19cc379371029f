"""What MLflow has of trainings that the grids of a cluster did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import PARTICIPANTS, Cluster, ok
from mlflow_server import URI, Server


@pytest.fixture
def mlflow(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, and a Director that tells it."""
    server = Server(tmp_path)
    try:
        server.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
        cluster.kill("sync_director")
        cluster.start("sync_director")
        yield server
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        cluster.kill("sync_director")
        cluster.start("sync_director")
    finally:
        server.kill()


def test_the_director_tells_of_trainings_and_validations(cluster: Cluster, mlflow: Server) -> None:
    keys = cluster.describe("tracked", runs=2)
    experiment = "_>_".join(keys)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    cluster.done(collab_id="tracked")
    mlflow.ended(experiment, runs=2)
    ok(cluster.driver.validations.create(*keys))
    jobs = cluster.done(collab_id="tracked")
    assert {job["state"] for job in jobs} == {"done"}, jobs
    statistic = f"{PARTICIPANTS[1]}_R2"
    mlflow.until(lambda: all(statistic in run.data.metrics for run in mlflow.runs(experiment)))
    runs = {run.info.run_name: run for run in mlflow.runs(experiment)}
    assert sorted(runs) == ["run_1", "run_2"]
    for name, run in runs.items():
        assert (run.info.status, len(run.outputs.model_outputs)) == ("FINISHED", 1)
        [model] = ok(cluster.driver.models.read(*keys, name))
        history = json.loads(Path(model["global"]["loss_history"]).read_text())
        for part in ("train", "evaluate"):
            points = mlflow.points(run, f"global_{part}_loss")
            found = {str(point.step - 1): point.value for point in points}
            assert (found, len(points)) == (history[part], len(history[part]))
        for record in ok(cluster.driver.validations.read(*keys, name)):
            participant, statistics = record["key"]["participant_id"], record["evaluate"]["statistics"]
            assert run.data.metrics[f"{participant}_R2"] == statistics["R2"]
        assert not [key for key in run.data.metrics if key.startswith("system/")]
