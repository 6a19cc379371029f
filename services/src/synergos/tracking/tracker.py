"""Takes in what happens to trainings; a thread stores it and tells MLflow.

A training waits for neither: while it goes on only memory is touched, and its end is stored together with its results.
What memory holds is lost when the process is killed, and comes again, because the training is taken up again then and
tells its earlier rounds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from synergos import __version__
from synergos.errors import Invalid
from synergos.jobs import RoundProgress, TrainJob, TrainResult
from synergos.logs import carry, current, get_logger
from synergos.logs.usage import Groups, Usage
from synergos.orchestrator.database import Body, Database, Records, StorageFailure
from synergos.tracking.outbox import Outbox, Track
from synergos.tracking.sender import TRACK, Away, Sender

SECONDS = 1.0
USAGE_SECONDS = 10.0
# Below the folder of a run: files that MLflow has yet to get.
UNSENT = "unsent"
# What MLflow takes in a key, but for the slash and the colon, which mean something to it.
_STRANGE = re.compile(r"[^\w.\- ]")
_MEGABYTE = 1e6

Status = Literal["FINISHED", "FAILED", "KILLED"]
# (key, value, milliseconds since 1970, step)
Point = tuple[str, float, int, int]


class Training:
    """What one training tells while it goes on. Made by `Tracker.begin`."""

    def __init__(self, track: Track, here: bool) -> None:
        self.track = track
        self._here = here
        self._lock = threading.Lock()
        self._seen = track.rounds
        self._missed: set[int] = set()
        self._rounds: list[tuple[int, RoundProgress]] = []
        self._usage = Usage(Groups())
        self._first = self._usage.figures()
        self._measured = time.monotonic()

    def watch(self, progress: RoundProgress) -> None:
        """Take in a round. Only memory is touched."""
        # A training that was taken up again tells its earlier rounds, and may repeat the last ones. In a cluster, what
        # was lost on its way comes with the result.
        with self._lock:
            if progress.round > self._seen:
                self._missed.update(range(self._seen + 1, progress.round))
                self._seen = progress.round
            elif progress.round in self._missed:
                self._missed.remove(progress.round)
            else:
                return
            self._rounds.append((_now(), progress))

    def flush(self, records: Records, *, last: bool = False) -> int:
        """Put into the outbox what is new; return how many rounds that is, for `forget` once it is stored."""
        with self._lock:
            rounds = list(self._rounds)
        points = [point for at, progress in rounds for point in _points(at, progress)]
        if self._here and (last or time.monotonic() - self._measured > USAGE_SECONDS):
            self._measured = time.monotonic()
            points += self._used()
        if points:
            Outbox(records).add(self.track, "metrics", {"points": points})
        if rounds:
            newest = max(progress.round for _, progress in rounds)
            Outbox(records).change(self.track, rounds=max(self.track.rounds, newest))
        return len(rounds)

    def forget(self, rounds: int) -> None:
        """Drop the oldest rounds, which are stored."""
        with self._lock:
            del self._rounds[:rounds]

    def _used(self) -> list[Point]:
        figures, at = self._usage.figures(), _now()
        total, used = figures.get("memory_total"), figures.get("memory_used", 0)
        # MLflow's own names: its page "System metrics" shows these.
        values = {
            "cpu_utilization_percentage": figures["cpu_percent"],
            "system_memory_usage_megabytes": used / _MEGABYTE,
            "system_memory_usage_percentage": 100 * used / total if total else None,
            **{
                f"{shown}_megabytes": (figures[name] - self._first[name]) / _MEGABYTE
                for shown, name in (("network_receive", "net_bytes_recv"), ("network_transmit", "net_bytes_sent"))
                if name in figures
            },
        }
        return [(f"system/{key}", value, at, self._seen) for key, value in values.items() if value is not None]


class Tracker:
    """Tells MLflow of the trainings of one orchestrator.

    Args:
        database: holds what MLflow has yet to be told.
        uri: of MLflow's server, for example `http://172.19.0.11:5500`.
        tags: what every run is marked with.
        here: whether this process trains, so that what it uses meanwhile belongs to the run.
    """

    def __init__(self, database: Database, uri: str, tags: Mapping[str, str] | None = None, here: bool = True) -> None:
        self._database = database
        self._tags = dict(tags or {})
        self._here = here
        self._sender = Sender(database, uri)
        self._log = get_logger("tracking")
        self._lock = threading.Lock()
        self._trainings: dict[str, Training] = {}
        self._wake = threading.Event()

    def start(self) -> None:
        """Begin to tell, also what an earlier process could not."""
        threading.Thread(target=carry(self._work), daemon=True, name="mlflow").start()

    def begin(self, job: TrainJob, job_id: str) -> Training:
        """Return what a training tells its rounds to. A job that is taken up again goes on with the run that it had.

        Raises:
            StorageFailure: the beginning cannot be stored.
        """
        # Before the transaction: the first time, a Director loads torch for this.
        parameters = _parameters(job)
        with self._database.write() as records:
            track, new = Outbox(records).open(job_id, _key(job))
            if new:
                Outbox(records).add(track, "start", self._start(job, track, parameters))
        training = Training(track, self._here)
        with self._lock:
            self._trainings[track.track_id] = training
        self._wake.set()
        return training

    def flush(self) -> None:
        """Store what memory holds. Raises `StorageFailure`, and then memory still holds it."""
        with self._lock:
            for training in list(self._trainings.values()):
                with self._database.write() as records:
                    rounds = training.flush(records)
                training.forget(rounds)

    def trained(self, training: Training, result: TrainResult, job: TrainJob, records: Records) -> None:
        """Note in the transaction that stores its results that a training gave a model. Call `flush` before."""
        outbox, track, paths = Outbox(records), training.track, result.paths
        training.forget(training.flush(records, last=True))
        losses = _read(paths["global"]["loss_history"]).get("evaluate", {})
        # The rounds tell the loss of the round before: that of the last one is in the history only.
        if (last := losses.get(str(track.rounds - 1))) is not None:
            points: list[Point] = [("global_evaluate_loss", last, _now(), track.rounds)]
            outbox.add(track, "metrics", {"points": points})
        outbox.add(track, "model", _model(paths, job, track))
        tags: dict[str, str] = {
            name: str(paths["global"][name]) for name in ("rounds", "best_round") if name in paths["global"]
        }
        if left_out := paths["global"].get("left_out"):
            tags["left_out"] = ", ".join(left_out)
        outbox.add(track, "tags", {"tags": tags})
        self._end(outbox, track, "FINISHED")

    def ended(self, job_id: str, status: Status, reason: str, records: Records) -> None:
        """Note in the transaction that stores its end that a job failed or was cancelled."""
        outbox = Outbox(records)
        for track in outbox.unfinished(job_id):
            if training := self._trainings.get(track.track_id):
                training.track = track
                training.forget(training.flush(records, last=True))
            outbox.add(track, "tags", {"tags": {"reason": reason}})
            self._end(outbox, track, status)

    def validated(self, key: Mapping[str, str], results: Mapping[str, Body], step: int, records: Records) -> None:
        """Note the statistics of a model, in the transaction that stores them; nothing happens if they are known.

        Args:
            key: of the run that was validated.
            results: participant → `{"statistics": …}`.
            step: round whose weights the model has.
        """
        outbox = Outbox(records)
        track = outbox.newest(key)
        if track is None:
            return
        at, validated, points = _now(), dict(track.validated), list[Point]()
        for participant, result in results.items():
            content = _hash(result.get("statistics", {}))
            if validated.get(participant) != content:
                validated[participant] = content
                points += [(name, value, at, step) for name, value in _statistics(participant, result["statistics"])]
        if points:
            outbox.add(track, "metrics", {"points": points})
            outbox.change(track, validated=validated)
            self._wake.set()

    def tag(self, key: Mapping[str, str], tags: Mapping[str, str], records: Records) -> None:
        """Mark the newest training of a combination that gave a model, in the transaction that makes it true."""
        outbox = Outbox(records)
        if track := outbox.newest(key):
            outbox.add(track, "tags", {"tags": dict(tags)})
            self._wake.set()

    def _end(self, outbox: Outbox, track: Track, status: Status) -> None:
        if track.dropped:
            outbox.add(track, "tags", {"tags": {"dropped_points": str(track.dropped)}})
        outbox.add(track, "end", {"status": status, "at": _now()})
        outbox.change(track, status=status)
        self._trainings.pop(track.track_id, None)
        self._wake.set()

    def _start(self, job: TrainJob, track: Track, parameters: Body) -> Body:
        trace_id = current().get("trace_id")
        return {
            "experiment": f"{job.collab_id}_>_{job.project_id}_>_{job.expt_id}",
            "name": job.run_id,
            "at": _now(),
            "params": {name: _text(value) for name, value in parameters.items()},
            "tags": {
                "mlflow.source.name": f"synergos {__version__}",
                TRACK: track.track_id,
                **_key(job),
                "job_id": track.job_id,
                **({"trace_id": trace_id} if trace_id else {}),
                "action": job.action,
                "algorithm": _text(parameters.get("algorithm", "")),
                "participants": ", ".join(sorted(party.node.participant_id for party in job.parties)),
                **_fingerprints(job),
                **self._tags,
            },
        }

    def _work(self) -> None:
        wait = SECONDS
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            wait = SECONDS
            try:
                self.flush()
                self._sender.send()
            except StorageFailure as failure:
                self._log.warning("what MLflow is to be told cannot be stored", code=507, reason=failure.message)
            except Away:
                wait = self._sender.pause
            except Exception:
                self._log.exception("MLflow cannot be told", code=500)
                wait = self._sender.pause


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the tags that the environment gives to all runs: git revision of the collection, and images."""
    tags = {"version": __version__}
    if revision := environment.get("SYNERGOS_REVISION"):
        tags["revision"] = revision
    try:
        images = json.loads(environment.get("SYNERGOS_IMAGES") or "{}")
        tags |= {f"image_{name}": str(image) for name, image in images.items()}
    except (ValueError, AttributeError):
        raise Invalid('SYNERGOS_IMAGES is no JSON object such as {"ttp": "synergos/ttp:1.0"}.') from None
    return tags


def _parameters(job: TrainJob) -> Body:
    from synergos.federation.parameters import Parameters

    given = {name: value for name, value in job.parameters.items() if value is not None}
    with suppress(Invalid):  # which the engine will say
        return {**Parameters.read(job.parameters).model_dump(exclude_none=True), **given}
    return given


def _points(at: int, progress: RoundProgress) -> Iterator[Point]:
    step = progress.round
    yield "global_train_loss", progress.train_loss, at, step
    if progress.previous_evaluate_loss is not None:
        yield "global_evaluate_loss", progress.previous_evaluate_loss, at, step - 1
    for participant, share in progress.participants.items():
        yield f"{participant}_local_loss", share.loss, at, step


def _statistics(participant: str, statistics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Go through the figures of a validation: one per statistic, or one per statistic and class."""
    labels = _distinct([_STRANGE.sub("_", str(label)) for label in statistics.get("labels", [])])
    for name, value in statistics.items():
        if isinstance(value, list) and name != "labels":
            for label, figure in zip(labels, value, strict=True):
                if figure is not None and math.isfinite(figure):
                    yield f"{participant}_{name}_class_{label}", float(figure)
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield f"{participant}_{name}", float(value)


def _distinct(labels: list[str]) -> list[str]:
    if len(set(labels)) == len(labels):
        return labels
    return [f"{index}_{label}" for index, label in enumerate(labels)]


def _fingerprints(job: TrainJob) -> dict[str, str]:
    """Return what shows that data changed, as far as participants tell of it.

    `statistics_hash` is over names, classes, pooled means and deviations, and the rows of the classes of all training
    sets; `columns_hash_<participant>` over the participant's tags and which of the aligned columns it has.
    """
    layouts = [party.alignment.layout for party in job.parties if party.alignment]
    hashes = {"statistics_hash": _hash(layouts[0].model_dump())} if layouts else {}
    for party in job.parties:
        own = party.alignment.model_dump(exclude={"layout"}) if party.alignment else {}
        hashes[f"columns_hash_{party.node.participant_id}"] = _hash([party.tags.model_dump(), own])
    return hashes


def _model(paths: Mapping[str, Mapping[str, Any]], job: TrainJob, track: Track) -> Body:
    """Keep the files of a run for the sender, even if the run is trained again meanwhile."""
    folder = Path(paths["global"]["path"]).parent / UNSENT / track.track_id
    folder.mkdir(parents=True, exist_ok=True)
    _keep(Path(paths["global"]["path"]), folder)
    for part in paths.values():
        _keep(Path(part["loss_history"]), folder)
    layouts = [party.alignment.layout for party in job.parties if party.alignment]
    return {
        "folder": str(folder),
        "step": paths["global"].get("best_round", track.rounds),
        "description": {
            "action": job.action,
            "layers": job.model,
            "parameters": job.parameters,
            "layout": layouts[0].model_dump() if layouts and job.auto_align else None,
        },
    }


def _keep(path: Path, folder: Path) -> None:
    kept = folder / path.name
    kept.unlink(missing_ok=True)
    try:
        # Trainings replace their files, so this stays what it is, and costs nothing.
        os.link(path, kept)
    except OSError:
        shutil.copyfile(path, kept)


def _read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def _key(job: TrainJob) -> dict[str, str]:
    return {name: getattr(job, name) for name in ("collab_id", "project_id", "expt_id", "run_id")}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _now() -> int:
    return time.time_ns() // 1_000_000
