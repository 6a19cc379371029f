"""What a user sees of one federated cycle without having set anything up, in Graylog and in MLflow."""

from __future__ import annotations

import csv
import io
import json
import re
from urllib.parse import parse_qs, unquote, urlsplit

import docker
import pytest
import requests
from conftest import LOGGERS, ROOT, SERVICES, STREAMS, TIER, TTP, Graylog, MLflow, eventually

EXAMPLE = "breast_cancer"
EXPERIMENT = f"demo_>_{EXAMPLE}_>_model"
MODEL = ROOT / "outputs" / TIER / "synp_ttp/demo" / EXAMPLE / "model/run"
METRICS = ("cpu_percent", "memory_total", "memory_used", "disk_read_bytes", "net_bytes_sent")


# Runs where MLflow's client, PyTorch and the address of the server are: in the TTP's container.
PREDICT = """
import io, sys, mlflow, pandas
rows = pandas.read_csv(io.StringIO(sys.argv[2])).drop(columns="target").astype(float)
found = mlflow.pyfunc.load_model(f"runs:/{sys.argv[1]}/model").predict(rows)
print(found.to_csv(index=False))
"""


@pytest.fixture(scope="module")
def trace(said: str) -> str:
    """The trace id in the link to Graylog that the demo prints."""
    link = re.search(r"http://127\.0\.0\.1:9000/search\?\S+", said)
    assert link, said
    (query,) = parse_qs(urlsplit(link[0]).query)["q"]
    found = re.fullmatch(r'trace_id:"([0-9a-f]{32})"', query)
    assert found, query
    return found[1]


def test_the_collaboration_knows_the_tiers_components(said: str) -> None:
    record = requests.get(f"{TTP}/connect/collaborations/demo", timeout=30).json()["data"]
    ports = {"main": 9000, "ui": 9000, "sysmetrics": 9100, "director": 9200, "ttp": 9300, "worker": 9400}
    assert record["logs"] == {"host": "172.19.0.10", "ports": ports, "secure": False}
    assert record["mlops"] == {"host": "172.19.0.11", "ports": {"main": 5500, "ui": 5500}, "secure": False}


def test_one_trace_joins_the_lines_of_all_services_each_in_its_stream(trace: str, graylog: Graylog) -> None:
    titles = graylog.streams()
    for name, logger in LOGGERS.items():
        found = eventually(lambda logger=logger: graylog.search(f'trace_id:"{trace}" AND logger:"{logger}"'))
        assert found, f"no line of {name}"
        for line in found:
            assert STREAMS[logger[:4]] in {titles.get(stream) for stream in line["streams"]}
            assert line["source"] == name
    training = graylog.search(f'trace_id:"{trace}" AND run_id:"run" AND project_id:"{EXAMPLE}"')
    assert {line["logger"] for line in training} == set(LOGGERS.values())


def test_every_service_tells_the_system_metrics_of_its_own_container(
    said: str, client: docker.DockerClient, graylog: Graylog
) -> None:
    titles = graylog.streams()
    for name in SERVICES:
        found = eventually(lambda name=name: graylog.search(f'logger:"SYS_{name}"'))
        assert found, f"no system metrics of {name}"
        for line in found:
            assert STREAMS["SYS_"] in {titles.get(stream) for stream in line["streams"]}
            assert all(isinstance(line[metric], (int, float)) for metric in METRICS), line
        limit = client.containers.get(name).attrs["HostConfig"]["Memory"]
        assert {line["memory_total"] for line in found} == {limit}


@pytest.fixture(scope="module")
def link(said: str) -> tuple[str, str]:
    """Ids of experiment and run in the link to MLflow that the demo prints."""
    found = re.search(r"http://127\.0\.0\.1:5500/#/experiments/(\d+)/runs/([0-9a-f]{32})", said)
    assert found, said
    return found[1], found[2]


def test_mlflow_has_the_run_with_a_loss_per_round(link: tuple[str, str], mlflow: MLflow) -> None:
    experiment_id, run_id = link
    assert mlflow.experiments()[EXPERIMENT] == experiment_id
    run = next(each for each in mlflow.runs(experiment_id) if each["info"]["run_id"] == run_id)
    assert (run["info"]["run_name"], run["info"]["status"]) == ("run", "FINISHED")

    settings = json.loads((ROOT / "examples" / EXAMPLE / "hyperparameters.json").read_text())
    told = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert {key: told[key] for key in settings} == {key: str(value) for key, value in settings.items()}
    history = json.loads((MODEL / "global_loss_history.json").read_text())
    rounds = settings["rounds"]
    assert len(history["train"]) == rounds
    for metric in ("global_train_loss", "global_evaluate_loss"):
        curve = mlflow.history(run_id, metric)
        expected = list(history[metric.split("_")[1]].values())
        assert len(curve) == rounds
        assert [curve[step] for step in sorted(curve)] == pytest.approx(expected)
    for participant in ("worker_1", "worker_2"):
        assert len(mlflow.history(run_id, f"{participant}_local_loss")) == rounds
    tags = {each["key"]: each["value"] for each in run["data"]["tags"]}
    assert tags["action"] == "classify" and tags["algorithm"] == "FedProx"


def test_the_model_in_mlflow_predicts_what_the_grid_predicted(
    link: tuple[str, str], client: docker.DockerClient
) -> None:
    rows = (ROOT / "examples" / EXAMPLE / "dataset/data1/predict/breast_cancer.csv").read_text()
    done = client.containers.get("synp_ttp").exec_run(["python", "-c", PREDICT, link[1], rows], demux=True)
    assert done.exit_code == 0, done.output
    found = list(csv.DictReader(io.StringIO(done.output[0].decode().strip())))
    (results,) = (ROOT / "outputs" / TIER / "synp_worker_1").rglob("run/predict/inference_results_predict.csv")
    expected = list(csv.DictReader(results.open(encoding="utf-8")))
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    scores = [float(row[f"score_{row['prediction']}"]) for row in found]
    assert scores == pytest.approx([float(row["score"]) for row in expected], abs=1e-6)


def test_the_demo_says_where_things_are(said: str) -> None:
    assert unquote(said).count("127.0.0.1:9000/search") == 1
    for place in ("http://127.0.0.1:5000/ttp/connect/", str(MODEL.parents[1])):
        assert place in said
