"""What MLflow has of trainings of a real grid, also if it, or the TTP, is killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import loopback
import mlflow as mlflow_client
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow_server import URI, Server

from synergos import Driver
from synergos.jobs import METAS

EXAMPLES = Path(__file__).parents[3] / "examples"
IMAGES = '{"ttp": "synergos/ttp:abc", "worker": "synergos/worker:def"}'
FEW = {"algorithm": "FedAvg", "rounds": 3, "epochs": 1, "batch_size": 16, "lr": 0.01, "criterion": "BCELoss"}
# A round of these takes much longer than one of those: time to see it, and to do harm.
SLOW = {"rounds": 100, "patience": 100, "batch_size": 4}
KEY = "c1_>_p1_>_e1"


class Project:
    """The example of breast cancer on a grid whose TTP can be killed."""

    def __init__(self, grid: loopback.Grid, root: Path) -> None:
        self.grid, self.root = grid, root
        self.driver = Driver(grid.ttp, 5000)

    def register(self) -> None:
        driver = self.driver
        model = json.loads((EXAMPLES / "breast_cancer" / "architecture.json").read_text())
        driver.collaborations.create("c1")
        driver.projects.create("c1", "p1", action="classify", incentives={})
        driver.experiments.create("c1", "p1", "e1", model=model)
        for index, (name, address) in enumerate(self.grid.workers.items(), 1):
            driver.participants.create(participant_id=name)
            task = driver.registrations
            task.add_node(host=address, port=8020, f_port=5000)
            task.create("c1", "p1", name, role="guest")
            tags = {meta: [["breast_cancer", "dataset", f"data{index}", meta]] for meta in METAS}
            driver.tags.create("c1", "p1", name, **tags)
        assert driver.alignments.create("c1", "p1")["status"] in (200, 201)

    def train(self, run_id: str, **parameters: Any) -> dict[str, Any]:
        """Make a run and train it; returns the answer."""
        self.driver.runs.create("c1", "p1", "e1", run_id, **{**FEW, **parameters})
        answer: dict[str, Any] = Driver(self.grid.ttp, 5000).models.create("c1", "p1", "e1", run_id)
        return answer

    def losses(self, run_id: str, name: str = "global_loss_history") -> Any:
        return json.loads((self.root / "ttp" / "outputs" / "c1" / "p1" / "e1" / run_id / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def project(mlflow: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", URI)
        patch.setenv("SYNERGOS_REVISION", "0123abc")
        patch.setenv("SYNERGOS_IMAGES", IMAGES)
        with loopback.grid(root, EXAMPLES) as running:
            found = Project(running, root)
            found.register()
            yield found


@pytest.fixture
def behind(project: Project) -> Iterator[Callable[..., Future[Any]]]:
    """A function that calls another one in the background."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def newest(mlflow: Server, run_id: str) -> Run | None:
    found = [run for run in mlflow.runs(KEY) if run.info.run_name == run_id]
    return found[-1] if found else None


def over(mlflow: Server, run_id: str, status: str = "FINISHED") -> Run:
    """Wait until a run has ended, and check how."""

    def found() -> Run | None:
        run = newest(mlflow, run_id)
        return run if run and run.info.status != "RUNNING" else None

    run = mlflow.until(found, 150)
    assert run is not None and run.info.status == status
    return run


def check_losses(mlflow: Server, project: Project, run: Run, rounds: int) -> None:
    """Every round once, with the figures that the TTP has in its files."""
    history = project.losses(run.info.run_name)
    wanted = {"global_train_loss": history["train"], "global_evaluate_loss": history["evaluate"]}
    for name in project.grid.workers:
        wanted[f"{name}_local_loss"] = project.losses(run.info.run_name, f"local_loss_history_{name}")
    for key, values in wanted.items():
        points = mlflow.points(run, key)
        assert [point.step for point in points] == list(range(1, rounds + 1)), key
        assert [point.value for point in points] == [values[str(index)] for index in range(rounds)], key


def test_a_training_is_seen_while_it_goes_on(
    project: Project, mlflow: Server, behind: Callable[..., Future[Any]]
) -> None:
    answer = behind(project.train, "live", **SLOW)
    running = mlflow.until(lambda: (run := newest(mlflow, "live")) and run.data.metrics and run, 100)
    assert isinstance(running, Run)
    assert running.info.status == "RUNNING" and not answer.done()
    assert answer.result()["status"] == 200
    run = over(mlflow, "live")
    check_losses(mlflow, project, run, 100)
    assert run.data.params["rounds"] == "100" and run.data.params["optimizer"] == "SGD"
    assert {
        "action": "classify",
        "algorithm": "FedAvg",
        "participants": "worker_1, worker_2",
        "revision": "0123abc",
        "image_ttp": "synergos/ttp:abc",
        "image_worker": "synergos/worker:def",
        "run_id": "live",
        "rounds": "100",
    }.items() <= run.data.tags.items()
    assert len(run.data.tags["statistics_hash"]) == len(run.data.tags["columns_hash_worker_1"]) == 16
    assert mlflow.points(run, "system/cpu_utilization_percentage")
    assert 50 < run.data.metrics["system/system_memory_usage_megabytes"] < 100_000
    artifacts = [item.path for item in mlflow.client.list_artifacts(run.info.run_id, "history")]
    assert artifacts == [
        "history/global_loss_history.json",
        "history/local_loss_history_worker_1.json",
        "history/local_loss_history_worker_2.json",
    ]
    assert not list((project.root / "ttp" / "outputs").rglob("unsent"))


def test_statistics_have_the_participant_in_the_key(project: Project, mlflow: Server) -> None:
    assert project.train("measured")["status"] == 200
    for _ in range(2):  # the second one finds nothing new
        [worker_1, worker_2] = project.driver.validations.create("c1", "p1", "e1", "measured")["data"]
        over(mlflow, "measured")
    # Sent after all that was before it.
    assert project.train("after")["status"] == 200
    over(mlflow, "after")
    run = newest(mlflow, "measured")
    assert run is not None
    for record in (worker_1, worker_2):
        name, statistics = record["key"]["participant_id"], record["evaluate"]["statistics"]
        assert run.data.metrics[f"{name}_overall_accuracy"] == statistics["overall_accuracy"]
        for index, label in enumerate(statistics["labels"]):
            [point] = mlflow.points(run, f"{name}_roc_auc_score_class_{label}")
            assert (point.value, point.step) == (statistics["roc_auc_score"][index], int(run.data.tags["best_round"]))


def test_the_model_predicts_what_the_grid_predicts(project: Project, mlflow: Server) -> None:
    assert project.train("model", rounds=10)["status"] == 200
    tags = {"p1": [["breast_cancer", "dataset", "data1", "predict"]]}
    answer = project.driver.predictions.create(tags, "worker_1", "c1", "p1", "e1", "model")
    [path] = (project.root / "worker_1").rglob("inference_results_predict.csv")
    grid = pd.read_csv(path)
    assert answer["status"] == 200
    run = over(mlflow, "model")
    [output] = run.outputs.model_outputs
    assert (output.step, mlflow.client.get_logged_model(output.model_id).status) == (
        int(run.data.tags["best_round"]),
        "READY",
    )
    mlflow_client.set_tracking_uri(URI)
    loaded = mlflow_client.pyfunc.load_model(f"models:/{output.model_id}")
    data = EXAMPLES / "breast_cancer" / "dataset" / "data1" / "predict" / "breast_cancer.csv"
    frame = pd.read_csv(data)
    signature = loaded.metadata.signature
    assert set(signature.inputs.input_names()) == set(frame.columns) - {"target"}
    assert signature.outputs.input_names() == ["prediction", "score_0", "score_1"]
    found = loaded.predict(frame.drop(columns="target").astype(float))
    assert found["prediction"].astype(int).tolist() == grid["prediction"].tolist()
    own = np.where(grid["prediction"] == 1, found["score_1"], found["score_0"])
    np.testing.assert_allclose(own, grid["score"], rtol=0, atol=1e-6)
    files = {Path(item.path).name for item in mlflow.client.list_logged_model_artifacts(output.model_id, "data/data")}
    assert files == {"model.json", "weights.npz"}
    # The same under the name that older clients use.
    again = mlflow_client.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    pd.testing.assert_frame_equal(again.predict(frame.drop(columns="target").astype(float)), found)


def test_mlflow_is_killed_during_a_training(
    project: Project, mlflow: Server, behind: Callable[..., Future[Any]]
) -> None:
    project.train("reference", **SLOW)
    answer = behind(project.train, "without", **SLOW)
    mlflow.until(lambda: (run := newest(mlflow, "without")) and run.data.metrics, 150)
    mlflow.kill()
    try:
        assert answer.result()["status"] == 200
    finally:
        mlflow.start()
    check_losses(mlflow, project, over(mlflow, "without"), 100)
    assert project.losses("without") == project.losses("reference")


def test_the_ttp_is_killed_while_mlflow_is_away(
    project: Project, mlflow: Server, behind: Callable[..., Future[Any]]
) -> None:
    answer = behind(project.train, "twice", **SLOW)
    mlflow.until(lambda: (run := newest(mlflow, "twice")) and run.data.metrics, 150)
    mlflow.kill()
    project.grid.processes["ttp"].kill()
    with pytest.raises(Exception, match=r"."):
        assert answer.result()["status"] == 200
    project.grid.processes["ttp"].wait()
    project.grid.start_ttp()
    project.grid.wait()
    mlflow.start()
    run = over(mlflow, "twice")
    check_losses(mlflow, project, run, 100)
    assert len([each for each in mlflow.runs(KEY) if each.info.run_name == "twice"]) == 1


def test_a_run_that_is_trained_again_is_another_run(project: Project, mlflow: Server) -> None:
    for _ in range(2):
        assert project.train("again")["status"] == 200
        over(mlflow, "again")
    runs = [run for run in mlflow.runs(KEY) if run.info.run_name == "again"]
    assert len(runs) == 2
    for run in runs:
        check_losses(mlflow, project, run, 3)


def test_failed_and_cancelled_runs_say_why(
    project: Project, mlflow: Server, behind: Callable[..., Future[Any]]
) -> None:
    refused = project.train("failing", criterion="PoissonNLLLoss")
    run = over(mlflow, "failing", "FAILED")
    assert "PoissonNLLLoss does not fit" in run.data.tags["reason"] == refused["message"]
    answer = behind(project.train, "cancelled", **{**SLOW, "rounds": 10_000, "patience": 10_000})
    mlflow.until(lambda: (run := newest(mlflow, "cancelled")) and run.data.metrics, 150)
    [job] = [job for job in project.driver.jobs.read_all()["data"] if job["state"] == "running"]
    project.driver.jobs.delete(job["job_id"])
    assert answer.result()["status"] == 409
    run = over(mlflow, "cancelled", "KILLED")
    assert run.data.tags["reason"] == answer.result()["message"]
    assert len(mlflow.points(run, "global_train_loss")) >= 1
