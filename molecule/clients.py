"""Clients of the REST APIs of what stands beside a grid, on loopback as the tiers publish them: Graylog and MLflow."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests

T = TypeVar("T")


def secrets(tier: str) -> Path:
    """Return the folder with the secrets of a tier."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "synergos" / tier


def eventually(ask: Callable[[], T], timeout: float = 60.0, interval: float = 1.0) -> T:
    """Return the first answer of `ask` that is true, or its last one when the time is up."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(interval)
    return answer


class Graylog:
    """Graylog's REST API, as its administrator."""

    address = "http://127.0.0.1:9000/api"

    def __init__(self, tier: str) -> None:
        self._session = requests.Session()
        self._session.auth = ("admin", (secrets(tier) / "graylog_admin").read_text().strip())
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
