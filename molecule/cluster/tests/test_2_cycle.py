"""A federated cycle through the Director: by a client that knows only the original's rules, and by the Driver."""

from __future__ import annotations

import json
from typing import Any

import docker
import pytest
from conftest import DATA, EXAMPLE, EXPT, NODES, OUTPUTS, TTPS, Director, eventually, healthy

C, RUN = "contract", "run_1"
TRAIN = f"train/collaborations/{C}/projects/{EXAMPLE}"
EVALUATE = f"evaluate/collaborations/{C}/projects/{EXAMPLE}"
PREDICT = f"evaluate/participants/worker_1/collaborations/{C}/predictions/{EXAMPLE}/{EXPT}/{RUN}"
TAGS = {"tags": {EXAMPLE: [[EXAMPLE, "dataset", "data1", "predict"]]}}
FLAGS = {"auto_align": True, "dockerised": True, "verbose": True, "log_msgs": True}
# The Driver and the examples' data, as a user has them, are in the Director's image: addresses of nodes are arguments.
DRIVER = """
import json, sys
from synergos import Driver
model, settings, nodes = map(json.loads, sys.argv[1:])
driver = Driver("127.0.0.1", 5000, raise_on_error=True)
driver.collaborations.create("lab")
driver.projects.create("lab", "diabetes", action="regress", incentives={})
driver.experiments.create("lab", "diabetes", "linear", model)
driver.runs.create("lab", "diabetes", "linear", "run", **settings)
for number, (name, hosts) in enumerate(nodes.items(), 1):
    driver.participants.create(name)
    registration = driver.registrations
    for host in hosts:
        registration.add_node(host=host, port=8020, f_port=5000)
    registration.create("lab", "diabetes", name, role="guest")
    data = ["diabetes", "dataset", f"data{number}"]
    driver.tags.create("lab", "diabetes", name, train=[[*data, "train"]], evaluate=[[*data, "evaluate"]])
driver.alignments.create("lab", "diabetes")
driver.alignments.wait("lab", "diabetes", timeout=60)
driver.models.create("lab", "diabetes", "linear", "run")
*_, job = driver.jobs.follow(collab_id="lab", process="train")
driver.validations.create("lab", "diabetes", "linear", "run")
found = driver.validations.wait("lab", "diabetes", "linear", "run", timeout=60)["data"]
print(job["state"], len(job["progress"]["rounds"]), sorted(record["key"]["participant_id"] for record in found))
"""


def post(director: Director, path: str, body: Any, status: int) -> None:
    """Send what a grid has to do: it is answered at once, and there is nothing before it is done."""
    answer = director.ask("POST", path, body)
    reply = answer.json()
    assert answer.status_code == status, reply
    assert set(reply) == {"apiVersion", "success", "status", "method", "params", "data"}, reply
    assert (reply["status"], reply["data"]) == (status, [])


def wait(director: Director, path: str, number: int = 1) -> Any:
    """Read until there are so many records, as the original's clients do."""

    def ask() -> Any:
        answer = director.ask("GET", path)
        assert answer.status_code in (200, 404), answer.text
        data = answer.json()["data"]
        return data if len(data) == number else None

    found = eventually(ask, interval=0.2)
    assert found, director.ask("GET", path).text
    return found


def test_the_whole_call_sequence(director: Director) -> None:
    director.describe(C, {RUN: {}})
    refused = director.ask("POST", f"{TRAIN}/models/{EXPT}/{RUN}", FLAGS)
    assert refused.status_code == 417 and "is not aligned for worker_1, worker_2" in refused.text

    assert director.ask("GET", f"{TRAIN}/alignments").status_code == 404
    post(director, f"{TRAIN}/alignments", {"auto_align": True, "auto_fix": True}, 201)
    alignments = wait(director, f"{TRAIN}/alignments", 2)
    assert {record["key"]["participant_id"] for record in alignments} == set(NODES)

    assert director.ask("GET", f"{TRAIN}/models/{EXPT}/{RUN}").status_code == 404
    post(director, f"{TRAIN}/models/{EXPT}/{RUN}", FLAGS, 200)
    (model,) = wait(director, f"{TRAIN}/models/{EXPT}/{RUN}")
    assert model["global"]["path"].endswith(f"{C}/{EXAMPLE}/{EXPT}/{RUN}/global_model.pt")
    assert (OUTPUTS / C / EXAMPLE / EXPT / RUN / "global_model.pt").is_file()

    assert director.ask("GET", f"{EVALUATE}/validations/{EXPT}/{RUN}").status_code == 404
    post(director, f"{EVALUATE}/validations/{EXPT}/{RUN}", FLAGS, 200)
    for record in wait(director, f"{EVALUATE}/validations/{EXPT}/{RUN}", 2):
        assert record["evaluate"]["statistics"]["R2"] > 0.2, record


def test_a_model_of_one_grid_predicts_on_the_other(director: Director, client: docker.DockerClient) -> None:
    (job,) = director.jobs(C)
    (part,) = job["progress"]["parts"]
    home = client.containers.get(part["ttp"])
    home.stop()
    try:
        assert director.ask("GET", PREDICT).status_code == 404
        post(director, PREDICT, {**TAGS, **FLAGS}, 200)
        (record,) = wait(director, PREDICT)
    finally:
        home.start()
    assert record["key"]["participant_id"] == "worker_1" and record["predict"]["statistics"]
    (prediction,) = director.jobs(C, "predict")
    assert {each["ttp"] for each in prediction["progress"]["parts"]} == set(TTPS) - {part["ttp"]}
    assert eventually(lambda: healthy(client, TTPS))


def test_the_driver_does_it_too(client: docker.DockerClient) -> None:
    texts = [(DATA / name).read_text() for name in ("architecture.json", "hyperparameters.json")]
    argv = ["python", "-c", DRIVER, *texts, json.dumps(NODES)]
    done = client.containers.get("sync_director").exec_run(argv)
    assert done.exit_code == 0, done.output.decode()
    rounds = json.loads(texts[1])["rounds"]
    assert done.output.decode().strip() == f"done {rounds} ['worker_1', 'worker_2']"


@pytest.mark.parametrize("process", ["align", "train", "validate", "predict"])
def test_every_step_was_a_job(director: Director, process: str) -> None:
    (job,) = director.jobs(C, process)
    assert job["state"] == "done"
    assert {part["state"] for part in job["progress"]["parts"]} == {"answered"}
