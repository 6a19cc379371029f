"""MLflow's server as the image mlops runs it, as a process of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

PYTHON = "/opt/mlflow/bin/python"
URI = "http://127.0.0.1:5500"
T = TypeVar("T")


def command(root: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """Return how to run the image's command over the files below `root`."""
    return {
        "args": [PYTHON, "-m", "synergos_mlops", *arguments],
        "env": {
            **os.environ,
            "PYTHONPATH": "/opt/mlops",
            "MLOPS_ROOT": str(root),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **environment,
        },
        "text": True,
    }


class Server:
    """A server that can be killed and started again.

    Attributes:
        root: its files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client = MlflowClient(URI)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.root / "log").open("a") as log:
            self._process = subprocess.Popen(
                **command(self.root), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.until(self._answers, 60)

    def kill(self) -> None:
        """End it at once, all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.until(lambda: not self._answers())

    def until(self, condition: Callable[[], T], seconds: float = 30) -> T:
        """Wait for a condition and return what it comes to."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, (self.root / "log").read_text()[-2000:]
            time.sleep(0.05)
        return found

    def runs(self, experiment: str) -> list[Run]:
        """Return the runs of an experiment, oldest first."""
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            return []
        return list(self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))

    def ended(self, experiment: str, runs: int = 1) -> Run:
        """Wait until so many runs of an experiment have ended, and return the newest."""

        def found() -> Run | None:
            all_of_them = self.runs(experiment)
            over = [run for run in all_of_them if run.info.status != "RUNNING"]
            return over[-1] if len(over) == len(all_of_them) == runs else None

        run = self.until(found, 60)
        assert run is not None
        return run

    def points(self, run: Run, key: str) -> list[Metric]:
        """Return all points of a metric."""
        return list(self.client.get_metric_history(run.info.run_id, key))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{URI}/health").status_code == 200
        except httpx.TransportError:
            return False
