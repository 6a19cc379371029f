"""Where Graylog shows a run, and what MLflow has of it, asked over its REST API."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from synergos.demo.settings import Settings
from synergos.errors import Invalid, SynergosError

ENDED = ("FINISHED", "FAILED", "KILLED")


def log_search(settings: Settings, trace_id: str) -> str:
    """Return the URL at which a browser finds every line of one Driver's requests, from the TTP and the workers."""
    return settings.pages["logs"] + quote(f'trace_id:"{trace_id}"')


class Untracked(SynergosError):
    """MLflow does not answer, or does not have the run."""


@dataclass(frozen=True)
class Tracked:
    """A run as MLflow has it.

    Attributes:
        experiment_id, run_id: MLflow's own ids.
        status: RUNNING, FINISHED, FAILED or KILLED.
        metrics: newest value of every metric.
    """

    experiment_id: str
    run_id: str
    status: str
    metrics: dict[str, float]

    @property
    def page(self) -> str:
        """Path of the run's page."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.run_id}"


class Tracker:
    """Reads from the MLflow server that `settings` name.

    Raises:
        Invalid: the settings name none.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.mlops is None:
            raise Invalid("This grid has no MLflow: the settings name no mlops.")
        self._settings = settings
        self._address = f"http://{settings.mlops.host}:{settings.mlops.ports['main']}"

    def run(self, timeout: float = 60.0) -> Tracked:
        """Return the newest training of the run, once it has ended there too: the TTP sends in the background.

        Args:
            timeout: seconds to wait for that.

        Raises:
            Untracked: MLflow does not answer, or does not have the run by then.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = self._newest()
                if found and found.status in ENDED:
                    return found
                state = f"has the run as {found.status}" if found else "does not have the run"
                failure = Untracked(f"MLflow at {self._address} {state} after {timeout:g} s. See the TTP's log.")
            except Untracked as error:  # it may be starting
                failure = error
            if time.monotonic() > deadline:
                raise failure
            time.sleep(0.5)

    def curves(self, run: Tracked) -> dict[str, dict[int, float]]:
        """Return metric -> step -> value of every loss of the run."""
        names = sorted(name for name in run.metrics if name.endswith("_loss"))
        return {name: self._history(run, name) for name in names}

    def _newest(self) -> Tracked | None:
        collab_id, project_id, expt_id, run_id = self._settings.keys
        name = f"{collab_id}_>_{project_id}_>_{expt_id}"
        experiment = self._ask("GET", "experiments/get-by-name", params={"experiment_name": name})
        if experiment is None:
            return None
        experiment_id = experiment["experiment"]["experiment_id"]
        query = {
            "experiment_ids": [experiment_id],
            "filter": f"attributes.run_name = '{run_id}'",
            "order_by": ["attributes.start_time DESC"],
            "max_results": 1,
        }
        runs = (self._ask("POST", "runs/search", json=query) or {}).get("runs")
        if not runs:
            return None
        info, data = runs[0]["info"], runs[0]["data"]
        metrics = {each["key"]: each["value"] for each in data.get("metrics", [])}
        return Tracked(experiment_id, info["run_id"], info["status"], metrics)

    def _history(self, run: Tracked, name: str) -> dict[int, float]:
        found = self._ask("GET", "metrics/get-history", params={"run_id": run.run_id, "metric_key": name}) or {}
        return {int(each["step"]): each["value"] for each in found.get("metrics", [])}

    def _ask(self, verb: str, path: str, **request: Any) -> dict[str, Any] | None:
        """Return the answer, or None where there is no such thing."""
        try:
            answer = httpx.request(verb, f"{self._address}/api/2.0/mlflow/{path}", timeout=30, **request)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Untracked(f"MLflow at {self._address} does not answer as it should: {error}") from error
        return found
