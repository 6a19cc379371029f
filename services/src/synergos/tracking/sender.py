"""Gives MLflow what the outbox holds, in order, and each thing once even if it is sent twice.

A run is found again by a tag that it is made with, a point is the same point if key, value, time and step are, and a
file replaces itself. So an entry may be sent, and the process be killed before the entry is deleted.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from synergos.logs import get_logger
from synergos.orchestrator.database import Body, Database
from synergos.tracking.outbox import Item, Outbox, Track

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's client takes two seconds and 70 MB to load: only the sending thread does so, and only if there is need.
TRACK = "synergos.track"
MODEL = "model"
_KIND = "custom_model_development"
_ENTRIES = 200
# What MLflow takes at once.
_POINTS = 1000
_PARAMS = 100
# Seconds between two attempts while MLflow is away.
_PAUSES = (1.0, 2.0, 5.0)
# What will never be taken, whenever it is sent.
_HOPELESS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})


class Away(Exception):
    """MLflow does not answer, or cannot work."""


class Sender:
    """Empties the outbox.

    Args:
        database: has the outbox.
        uri: of MLflow's server.
    """

    def __init__(self, database: Database, uri: str) -> None:
        self._database, self._uri = database, uri
        # What the client reads when it is loaded. One attempt, and not long: the thread comes back by itself.
        os.environ |= {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_CONFIGURE_LOGGING": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }
        self._log = get_logger("tracking")
        self._loaded: MlflowClient | None = None
        self._failures = 0
        self._kinds: dict[str, Callable[[Track, Body], None]] = {
            "start": self._start,
            "tags": self._tags,
            "model": self._model,
            "end": self._end,
        }

    @property
    def pause(self) -> float:
        """Seconds until it is worth trying again."""
        return _PAUSES[min(self._failures, len(_PAUSES)) - 1]

    def send(self) -> None:
        """Send all entries, oldest first.

        Raises:
            Away: MLflow does not take them now; those that it took are deleted.
            StorageFailure: the outbox cannot be used.
        """
        while True:
            with self._database.read() as records:
                items = Outbox(records).first(_ENTRIES)
            if not items:
                return
            for (track_id, kind), group in groupby(items, lambda item: (item.track_id, item.kind)):
                self._send(track_id, kind, list(group))

    def _send(self, track_id: str, kind: str, items: list[Item]) -> None:
        from mlflow.exceptions import MlflowException, RestException

        with self._database.read() as records:
            track = Outbox(records).find(track_id)
        if track is None:  # forgotten by a reset
            return
        known = track.mlflow_id
        try:
            if kind == "metrics":
                self._metrics(track, [point for item in items for point in item.body["points"]])
            else:
                for item in items:
                    self._kinds[kind](track, item.body)
        except RestException as error:
            if error.error_code not in _HOPELESS:
                raise self._away(error) from error
            gone = error.error_code == "RESOURCE_DOES_NOT_EXIST"
            self._log.error("MLflow refuses an entry", code=400, run_id=track.run_id, kind=kind, reason=str(error))
            if gone:
                # Deleted there by somebody, with all that was sent before.
                with self._database.write() as records:
                    Outbox(records).forget(track_id)
                return
        except MlflowException as error:
            raise self._away(error) from error
        if self._failures:
            self._log.info("MLflow is back", code=200, uri=self._uri)
            self._failures = 0
        with self._database.write() as records:
            Outbox(records).remove(items)
            if track.mlflow_id != known:
                Outbox(records).change(track, mlflow_id=track.mlflow_id)

    def _away(self, error: Exception) -> Away:
        if not self._failures:
            self._log.warning(
                "MLflow is away: what it is to be told is kept", code=503, uri=self._uri, reason=str(error)
            )
        self._failures += 1
        return Away(str(error))

    @property
    def _client(self) -> MlflowClient:
        if self._loaded is None:
            from mlflow import MlflowClient

            warnings.filterwarnings("ignore", ".*input example was not provided")
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            self._loaded = MlflowClient(self._uri)
        return self._loaded

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            # MLflow's page then shows curves first, not conversations.
            return str(self._client.create_experiment(name, tags={"mlflow.experimentKind": _KIND}))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _start(self, track: Track, body: Body) -> None:
        from mlflow.entities import Param

        experiment = self._experiment(body["experiment"])
        found = self._client.search_runs([experiment], f"tags.`{TRACK}` = '{track.track_id}'", max_results=1)
        run = found[0] if found else self._client.create_run(experiment, body["at"], body["tags"], body["name"])
        track.mlflow_id = run.info.run_id
        params = [Param(name, value) for name, value in body["params"].items()]
        for index in range(0, len(params), _PARAMS):
            self._client.log_batch(track.mlflow_id, params=params[index : index + _PARAMS])

    def _metrics(self, track: Track, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*point) for point in points]
        for index in range(0, len(metrics), _POINTS):
            self._client.log_batch(_id(track), metrics=metrics[index : index + _POINTS])

    def _tags(self, track: Track, body: Body) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(_id(track), tags=[RunTag(name, value) for name, value in body["tags"].items()])

    def _end(self, track: Track, body: Body) -> None:
        self._client.set_terminated(_id(track), body["status"], body["at"])

    def _model(self, track: Track, body: Body) -> None:
        from mlflow.entities import LoggedModelOutput

        from synergos.tracking import model

        folder = Path(body["folder"])
        run = self._client.get_run(_id(track))
        sent = bool(run.outputs and run.outputs.model_outputs)
        if not folder.is_dir():
            if not sent:
                self._log.error("a run's files are gone before MLflow had them", code=404, run_id=track.run_id)
            return
        for history in sorted(folder.glob("*.json")):
            self._client.log_artifact(_id(track), str(history), "history")
        experiment = run.info.experiment_id
        found = self._client.search_logged_models([experiment], f"source_run_id = '{_id(track)}'")
        logged = found[0] if found else self._client.create_logged_model(experiment, MODEL, source_run_id=_id(track))
        saved = folder / MODEL
        shutil.rmtree(saved, ignore_errors=True)
        model.save(saved, folder / "global_model.pt", body["description"], _id(track), logged.model_id)
        self._client.log_model_artifacts(logged.model_id, str(saved))
        self._client.finalize_logged_model(logged.model_id, "READY")
        if not sent:
            self._client.log_outputs(_id(track), [LoggedModelOutput(logged.model_id, body["step"])])
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _id(track: Track) -> str:
    assert track.mlflow_id is not None, "an entry before the start of its run"
    return track.mlflow_id
