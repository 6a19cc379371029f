"""What the scenario's tests share: the tier, its Director and broker as a client sees them, and what stands beside."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

sys.path.append(str(Path(__file__).parents[2]))

from clients import Graylog, MLflow, eventually, secrets
from scenario import (
    FULL,
    PLAYBOOK,
    ROOT,
    Run,
    engine_client,
    grid_containers,
    grid_leftovers,
    inspect,
    memory,
    playbook,
    readme_commands,
    run,
)

__all__ = [
    "FULL",
    "PLAYBOOK",
    "ROOT",
    "Graylog",
    "MLflow",
    "Run",
    "engine_client",
    "eventually",
    "grid_leftovers",
    "inspect",
    "memory",
    "playbook",
    "readme_commands",
    "run",
]

TIER = "synergos_cluster"
TTPS = {"sync_ttp_1": "172.20.0.3", "sync_ttp_2": "172.20.0.6"}
WORKERS = {
    "sync_worker_1_n1": "172.20.0.4",
    "sync_worker_2_n1": "172.20.0.5",
    "sync_worker_1_n2": "172.20.0.7",
    "sync_worker_2_n2": "172.20.0.8",
}
SERVICES = {"sync_director": "172.20.0.2", **TTPS, **WORKERS}
MQ = "172.20.0.16"
CONTAINERS = {
    **SERVICES,
    "mongo": "172.20.0.12",
    "elasticsearch": "172.20.0.13",
    "sync_logger": "172.20.0.14",
    "sync_mlops": "172.20.0.15",
    "sync_mq": MQ,
}
# Addresses of each participant's workers, one per grid.
NODES = {"worker_1": ["172.20.0.4", "172.20.0.7"], "worker_2": ["172.20.0.5", "172.20.0.8"]}
# The name under which each service logs, and the streams.
LOGGERS = {
    "sync_director": "DIR_sync_director",
    **{name: f"TTP_{name}" for name in TTPS},
    **{name: f"WKR_{name}" for name in WORKERS},
}
STREAMS = {"DIR_": "Director Stream", "TTP_": "TTP Stream", "WKR_": "Worker Stream"}
SECRETS = secrets(TIER)
OUTPUTS = ROOT / "outputs" / TIER / "sync_director"
EXAMPLE, EXPT = "diabetes", "linear"
DATA = ROOT / "examples" / EXAMPLE

Jobs = list[dict[str, Any]]


def started(client: docker.DockerClient) -> dict[str, str]:
    """Return when each container of the grid was started."""
    return grid_containers(client, TIER)


def healthy(client: docker.DockerClient, names: Iterable[str]) -> bool:
    """Whether the checks of all these containers say that they are well."""
    return all(inspect(client, name)["State"]["Health"]["Status"] == "healthy" for name in names)


def begun(client: docker.DockerClient, collab: str, names: Iterable[str] = TTPS) -> Counter[str]:
    """Count how often the TTPs began to train each run of a collaboration."""
    lines = [line for name in names for line in client.containers.get(name).logs(stderr=False).splitlines()]
    events = [json.loads(line) for line in lines if b'"event": "training begins"' in line]
    return Counter(event["run_id"] for event in events if event["collab_id"] == collab)


class Director:
    """The Director's REST API. A project is the example with one experiment, in a collaboration of its own."""

    address = "http://127.0.0.1:5000/ttp"

    def ask(self, verb: str, path: str, body: Any = None, trace: str = "") -> requests.Response:
        """Return the answer, whatever its status; `trace` is an id that the logs of all services carry."""
        headers = {"traceparent": f"00-{trace}-00000000000000aa-01"} if trace else {}
        return requests.request(verb, f"{self.address}/{path}", json=body, headers=headers, timeout=60)

    def call(self, verb: str, path: str, body: Any = None, trace: str = "") -> Any:
        """Return the `data` of an answer that must be a success."""
        answer = self.ask(verb, path, body, trace)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def describe(self, collab: str, runs: Mapping[str, Any], nodes: Mapping[str, list[str]] = NODES) -> None:
        """Register a project with so many workers per participant, and runs: id -> parameters beside the example's."""
        path = f"connect/collaborations/{collab}/projects"
        self.call("POST", "connect/collaborations", {"collab_id": collab})
        self.call("POST", path, {"project_id": EXAMPLE, "action": "regress", "incentives": {}})
        path += f"/{EXAMPLE}"
        model = json.loads((DATA / "architecture.json").read_text())
        self.call("POST", f"{path}/experiments", {"expt_id": EXPT, "model": model})
        settings = json.loads((DATA / "hyperparameters.json").read_text())
        for run_id, parameters in runs.items():
            self.call("POST", f"{path}/experiments/{EXPT}/runs", {**settings, "run_id": run_id, **parameters})
        for number, (participant, hosts) in enumerate(nodes.items(), 1):
            self.call("POST", "connect/participants", {"id": participant})
            seat = f"{path}/participants/{participant}/registration"
            each = {f"node_{n}": {"host": host, "port": 8020, "f_port": 5000} for n, host in enumerate(hosts)}
            self.call("POST", seat, {"role": "guest", "n_count": len(hosts), **each})
            tags = {meta: [[EXAMPLE, "dataset", f"data{number}", meta]] for meta in ("train", "evaluate")}
            self.call("POST", f"{seat}/tags", {**tags, "predict": []})

    def align(self, collab: str) -> None:
        """Align a project and wait for it."""
        path = f"train/collaborations/{collab}/projects/{EXAMPLE}/alignments"
        assert self.call("POST", path, {}) == []
        assert eventually(lambda: self.ask("GET", path).ok, interval=0.2), self.jobs(collab)

    def models(self, collab: str, *run_id: str) -> str:
        """Return the path of models."""
        return "/".join([f"train/collaborations/{collab}/projects/{EXAMPLE}/models/{EXPT}", *run_id])

    def jobs(self, collab: str, process: str = "train") -> Jobs:
        """Return jobs with all that is told of each."""
        found = self.call("GET", f"jobs?collab_id={collab}&process={process}")
        return [self.call("GET", f"jobs/{job['job_id']}") for job in found]

    def ended(self, collab: str, process: str = "train", timeout: float = 120) -> Jobs:
        """Wait until all jobs have ended, also where the Director is away for a while, and return them."""

        def ask() -> Jobs:
            try:
                jobs = self.jobs(collab, process)
            except requests.RequestException:
                return []
            return [] if any(job["state"] in ("queued", "running") for job in jobs) else jobs

        found = eventually(ask, timeout, interval=0.3)
        assert found, self.jobs(collab, process)
        return found

    def trained(self, collab: str, run_ids: Iterable[str]) -> dict[str, Any]:
        """Train runs, one job each, and return their losses; every job must do its run once."""
        for run_id in run_ids:
            assert self.call("POST", self.models(collab, run_id), {}) == []
        return self.losses(collab, self.ended(collab))

    def losses(self, collab: str, jobs: Jobs) -> dict[str, Any]:
        """Return run -> all losses that were stored, having seen that each of the jobs brought one model."""
        assert [(job["state"], job.get("reason")) for job in jobs] == [("done", None)] * len(jobs)
        run_ids = [job["key"]["run_id"] for job in jobs]
        for job in jobs:
            (part,) = job["progress"]["parts"]
            assert (part["part"], part["state"]) == (f"{EXAMPLE}/{EXPT}/{job['key']['run_id']}", "answered")
        stored = [record["key"]["run_id"] for record in self.call("GET", self.models(collab))]
        assert sorted(stored) == sorted(run_ids)
        return {
            run_id: {
                file.name: json.loads(file.read_text())
                for file in (OUTPUTS / collab / EXAMPLE / EXPT / run_id).glob("*_loss_history.json")
            }
            for run_id in run_ids
        }


class Broker:
    """RabbitMQ's REST API, as its administrator."""

    address = "http://127.0.0.1:15672/api"

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        login = ("admin", (SECRETS / "mq_admin").read_text().strip())
        answer = requests.request(verb, f"{self.address}/{path}", json=body, auth=login, timeout=30)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def publish(self, key: str, payload: str) -> None:
        """Give a message to the exchange of jobs by hand."""
        message = {"routing_key": key, "payload": payload, "payload_encoding": "string"}
        sent = self.call("POST", "exchanges/%2F/SynMQ_topic_logs/publish", {**message, "properties": {}})
        assert sent["routed"]

    def reject(self, queue: str) -> int:
        """Take the messages of a queue as a consumer would that refuses them, and return how many there were."""
        body = {"count": 10, "ackmode": "reject_requeue_false", "encoding": "auto"}
        return len(self.call("POST", f"queues/%2F/{queue}/get", body))


def letters(client: docker.DockerClient, command: str) -> list[str]:
    """Run the administrator's command for dead letters where its credentials are; return its lines."""
    argv = ["python", "-m", "synergos.queue.dead", "-mq", "rabbitmq", MQ, "5672", command]
    done = client.containers.get("sync_director").exec_run(argv)
    assert done.exit_code == 0, done.output
    return str(done.output.decode()).splitlines()


@pytest.fixture(scope="session")
def director() -> Director:
    return Director()


@pytest.fixture(scope="session")
def broker() -> Broker:
    return Broker()


@pytest.fixture(scope="session")
def graylog() -> Graylog:
    return Graylog(TIER)


@pytest.fixture(scope="session")
def mlflow() -> MLflow:
    return MLflow()
