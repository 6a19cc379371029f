"""What the scenario's tests share: the tier, one cycle on it, and clients of the REST APIs of Graylog and MLflow."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import docker
import pytest
import requests

sys.path.append(str(Path(__file__).parents[2]))

from scenario import (
    PLAYBOOK,
    ROOT,
    Run,
    engine_client,
    grid_containers,
    grid_leftovers,
    inspect,
    playbook,
    readme_commands,
    run,
)

__all__ = [
    "PLAYBOOK",
    "ROOT",
    "Run",
    "engine_client",
    "grid_leftovers",
    "inspect",
    "playbook",
    "readme_commands",
    "run",
]

T = TypeVar("T")

# Set by `make test-full`: every fault, every notebook.
FULL = bool(os.environ.get("SYNERGOS_FULL"))

TIER = "synergos_plus"
SERVICES = {"synp_ttp": "172.19.0.2", "synp_worker_1": "172.19.0.3", "synp_worker_2": "172.19.0.4"}
CONTAINERS = {
    **SERVICES,
    "mongo": "172.19.0.8",
    "elasticsearch": "172.19.0.9",
    "synp_logger": "172.19.0.10",
    "synp_mlops": "172.19.0.11",
}
# The name under which each service logs, its stream, and the one under which it tells its system metrics.
LOGGERS = {name: ("TTP_" if name == "synp_ttp" else "WKR_") + name for name in SERVICES}
STREAMS = {"TTP_": "TTP Stream", "WKR_": "Worker Stream", "SYS_": "Sysmetrics Stream"}
SECRETS = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "synergos" / TIER
TTP = "http://127.0.0.1:5000/ttp"


def started(client: docker.DockerClient) -> dict[str, str]:
    """Return when each container of the grid was started."""
    return grid_containers(client, TIER)


def eventually(ask: Callable[[], T], timeout: float = 60.0) -> T:
    """Return the first answer of `ask` that is true, or its last one when the time is up."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(1)
    return answer


class Graylog:
    """Graylog's REST API, as its administrator."""

    address = "http://127.0.0.1:9000/api"

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.auth = ("admin", (SECRETS / "graylog_admin").read_text().strip())
        self._session.headers["X-Requested-By"] = "tests"

    def get(self, path: str, **query: Any) -> Any:
        answer = self._session.get(
            f"{self.address}/{path}", params=query, timeout=60, headers={"Accept": "application/json"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def search(self, query: str, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the newest messages of the last day that match."""
        found = self.get("search/universal/relative", query=query, range=86400, limit=limit)
        return [each["message"] for each in found["messages"]]

    def count(self, query: str) -> int:
        """Return how many messages of the last day match."""
        found: int = self.get("search/universal/relative", query=query, range=86400, limit=1)["total_results"]
        return found

    def values(self, query: str, field: str) -> list[str]:
        """Return one field of every message of the last day that matches."""
        answer = self._session.get(
            f"{self.address}/search/universal/relative/export",
            params={"query": query, "range": 86400, "fields": field},
            headers={"Accept": "text/csv"},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        return [row[field] for row in csv.DictReader(io.StringIO(answer.text))]

    def streams(self) -> dict[str, str]:
        """Return id -> title of all streams."""
        return {each["id"]: each["title"] for each in self.get("streams")["streams"]}


class MLflow:
    """MLflow's REST API."""

    address = "http://127.0.0.1:5500/api/2.0/mlflow"

    def ask(self, verb: str, path: str, **request: Any) -> Any:
        answer = requests.request(verb, f"{self.address}/{path}", timeout=60, **request)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def experiments(self) -> dict[str, str]:
        """Return name -> id of all experiments."""
        found = self.ask("POST", "experiments/search", json={"max_results": 100})
        return {each["name"]: each["experiment_id"] for each in found.get("experiments", [])}

    def runs(self, experiment_id: str) -> list[dict[str, Any]]:
        """Return the runs of an experiment, newest first."""
        query = {"experiment_ids": [experiment_id], "order_by": ["attributes.start_time DESC"], "max_results": 100}
        found: list[dict[str, Any]] = self.ask("POST", "runs/search", json=query).get("runs", [])
        return found

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """Return step -> value; a step that was sent twice would show as a wrong number of entries."""
        found = self.ask("GET", "metrics/get-history", params={"run_id": run_id, "metric_key": metric})["metrics"]
        steps = [int(each["step"]) for each in found]
        assert len(steps) == len(set(steps)), f"{metric} has a step more than once: {steps}"
        return dict(zip(steps, (each["value"] for each in found), strict=True))


@pytest.fixture(scope="session")
def graylog() -> Graylog:
    return Graylog()


@pytest.fixture(scope="session")
def mlflow() -> MLflow:
    return MLflow()


@pytest.fixture(scope="session")
def said() -> str:
    """What a user reads after `make synplus`: converge, one federated cycle, status."""
    done = run("make", "synplus")
    assert done.rc == 0, done.output
    return done.output
