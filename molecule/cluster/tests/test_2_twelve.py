"""Twelve runs at once, and what Graylog and MLflow have of them."""

from __future__ import annotations

import json
import statistics
import time
import uuid

import docker
import pytest
from conftest import DATA, EXAMPLE, EXPT, LOGGERS, STREAMS, TTPS, Director, Graylog, Jobs, MLflow, begun, eventually

C = "twelve"
RUNS = {f"run_{number}": {"seed": number} for number in range(1, 13)}
TRACE = uuid.uuid4().hex
ROUNDS = json.loads((DATA / "hyperparameters.json").read_text())["rounds"]


@pytest.fixture(scope="module")
def jobs(director: Director) -> Jobs:
    """Twelve trainings, submitted as fast as they are taken; all have ended."""
    director.describe(C, RUNS)
    director.align(C)
    seconds = []
    for run_id in RUNS:
        began = time.monotonic()
        answer = director.ask("POST", director.models(C, run_id), {}, trace=TRACE)
        seconds.append(time.monotonic() - began)
        assert (answer.status_code, answer.json()["data"]) == (200, [])
    print(f"submission: median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s")
    # On quiet cores it is a tenth of that.
    assert statistics.median(seconds) < 0.5
    return director.ended(C)


def test_both_grids_do_them_each_once(jobs: Jobs, director: Director, client: docker.DockerClient) -> None:
    losses = director.losses(C, jobs)
    assert set(losses) == set(RUNS)
    # No two seeds have the same figures: nobody has the result of another.
    assert len({json.dumps(each) for each in losses.values()}) == len(RUNS)
    parts = [part for job in jobs for part in job["progress"]["parts"]]
    assert {part["attempt"] for part in parts} == {1}
    by_grid = {name: [part["grid"] for part in parts if part["ttp"] == name] for name in TTPS}
    assert [set(grids) for grids in by_grid.values()] == [{0}, {1}]
    print({name: len(grids) for name, grids in by_grid.items()})
    assert begun(client, C) == dict.fromkeys(RUNS, 1)


def test_one_trace_joins_the_lines_of_all_services_each_in_its_stream(jobs: Jobs, graylog: Graylog) -> None:
    titles = graylog.streams()
    for name, logger in LOGGERS.items():
        found = eventually(lambda logger=logger: graylog.search(f'trace_id:"{TRACE}" AND logger:"{logger}"'))
        assert found, f"no line of {name}"
        for line in found:
            assert STREAMS[logger[:4]] in {titles.get(stream) for stream in line["streams"]}
            assert line["source"] == name


def test_mlflow_has_the_runs_of_both_grids(jobs: Jobs, mlflow: MLflow, director: Director) -> None:
    name = f"{C}_>_{EXAMPLE}_>_{EXPT}"

    def ended() -> bool:
        experiment = mlflow.experiments().get(name)
        runs = mlflow.runs(experiment) if experiment else []
        return len(runs) == len(RUNS) and {run["info"]["status"] for run in runs} == {"FINISHED"}

    assert eventually(ended)
    losses = director.losses(C, jobs)
    for run in mlflow.runs(mlflow.experiments()[name]):
        curve = mlflow.history(run["info"]["run_id"], "global_train_loss")
        expected = losses[run["info"]["run_name"]]["global_loss_history.json"]["train"]
        assert [curve[step] for step in sorted(curve)] == pytest.approx(list(expected.values()))
        assert len(curve) == ROUNDS
