"""The life cycle of the projects that a worker takes part in: poll, initialise, inference, terminate."""

from __future__ import annotations

import hashlib
import json
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from synergos.errors import Invalid, NotFound, StillProcessing, SynergosError
from synergos.federation.sessions import Key, Session, Sessions
from synergos.ids import check_id
from synergos.jobs import Action, Layout, Meta, Spacers, Tags
from synergos.logs import bound, carry, get_logger, trace_id
from synergos.worker import datasets, files, outputs
from synergos.worker.prepared import Aligned
from synergos.worker.tags import resolve
from synergos.worker.tree import OPERATIONS, PREPROCESSING, RESERVED

Project = tuple[str, str]
Alignments = dict[Meta, Spacers]

log = get_logger("worker.projects")


class Record(datasets.Preparation):
    """What a worker remembers of a project across restarts (`operations.json`).

    Attributes:
        fingerprint: identifies the files that were prepared, so that a change on disk is noticed.
        exports: paths of the prepared data, and of the last predictions and scores.
        alignments, layout: as the orchestrator sent them last.
        connections: every (experiment, run) that was ever initialised, as text.
        results: (experiment, run) as text → meta → {statistics, res_path}.
    """

    key: dict[str, str]
    created_at: str
    action: Action
    tags: Tags
    fingerprint: str
    alignments: Alignments = Field(default_factory=dict)
    layout: Layout = Field(default_factory=Layout)
    connections: list[str] = Field(default_factory=list)
    results: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    project: Project
    action: Action
    tags: Tags


class Projects:
    """All projects of one worker. Data is prepared by a single background thread, one poll after the other.

    Args:
        data: folder with the participant's data sets.
        folder: output folder.
        sessions: where `initialise` opens sessions.
        minimum_rows: what fewer rows share is not told.
        on_first_poll: called once, in a thread of its own, when the first data is asked for.
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        sessions: Sessions,
        minimum_rows: int,
        on_first_poll: Callable[[], None] | None = None,
    ) -> None:
        self._data = data
        self._folder = folder
        self._sessions = sessions
        self._minimum_rows = minimum_rows
        self._on_first_poll = on_first_poll
        # Guards what follows and the files of all projects.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pending: list[_Job] = []
        # The last poll of a project, if it failed: what was asked for and why it could not be done.
        self._failed: dict[Project, tuple[Tags, str]] = {}
        threading.Thread(target=self._work, daemon=True, name="polls").start()

    @property
    def jobs(self) -> int:
        """Polls that wait or are being worked on."""
        # Without the lock: whoever checks the worker's health must not wait for a large set that is being aligned.
        return len(self._pending)

    def poll(self, collab_id: str, project_id: str, action: Action, tags: Tags) -> bool:
        """Have the data of `tags` prepared. False if that is already done and no file has changed since."""
        job = _Job(_project(collab_id, project_id), action, tags)
        fingerprint = self._fingerprint(job)
        with self._lock:
            if self._on_first_poll:
                threading.Thread(target=self._on_first_poll, daemon=True, name="warm-up").start()
                self._on_first_poll = None
            others = [each for each in self._pending if each.project == job.project]
            if others and others[-1] == job:
                return True
            record = self._read(job.project)
            if not others and record and record.fingerprint == fingerprint and record.complete:
                self._failed.pop(job.project, None)
                return False
            self._failed.pop(job.project, None)
            self._pending.append(job)
            self._queue.put(partial(carry(self._do), job))
        log.info("poll queued", **_ids(job.project), code=202, action=action, jobs=self.jobs)
        return True

    def polled(self, collab_id: str, project_id: str, tags: Tags | None = None) -> Record:
        """Return the record of a finished poll.

        Args:
            tags: what the caller polled; None for whatever there is.

        Raises:
            StillProcessing: the poll is not finished, or the stored data belongs to other tags.
            NotFound: never polled.
            Invalid: the poll failed; says why.
        """
        project = _project(collab_id, project_id)
        with self._lock:
            if any(job.project == project for job in self._pending):
                raise StillProcessing(f"The data of {'/'.join(project)} is being prepared; {self.jobs} jobs in line.")
            failed, reason = self._failed.get(project, (None, ""))
            if failed is not None and tags in (None, failed):
                raise Invalid(reason)
            record = self._record(project)
        if tags is not None and tags != record.tags:
            raise StillProcessing(f"{'/'.join(project)} was polled with other tags: poll again with these.")
        return record

    def answer(self, collab_id: str, project_id: str, tags: Tags) -> Record:
        """Return the record that answers a poll for `tags`; raises as `polled` does.

        Data that was prepared before the files changed is no answer: a worker that was killed has lost its polls.
        """
        record = self.polled(collab_id, project_id, tags)
        job = _Job(_project(collab_id, project_id), record.action, tags)
        if record.fingerprint != self._fingerprint(job):
            raise StillProcessing(f"The files of {'/'.join(job.project)} changed after they were read: poll again.")
        return record

    def align(self, collab_id: str, project_id: str, tags: Tags, alignments: Alignments, layout: Layout) -> Record:
        """Store the alignment of a polled project; raises as `polled` does, and `Invalid` if it does not fit."""
        with self._lock:
            record = self.polled(collab_id, project_id, tags)
            datasets.aligned(record, layout, record.action)
            record = record.model_copy(update={"alignments": alignments, "layout": layout})
            self._write(record)
        log.info("alignment stored", **_ids((collab_id, project_id)), code=200)
        return record

    def initialise(
        self,
        key: Key,
        participant_id: str,
        action: Action,
        tags: Tags,
        alignments: Alignments | None,
        layout: Layout | None,
        token: str | None,
    ) -> tuple[Record, bool]:
        """Open the session of a combination, replacing the one that it may have.

        Args:
            alignments, layout: None for what was stored before.
            token: secret that the data port will ask for; without one nobody can use that port.

        Returns:
            The record, and whether the combination was live before.
        """
        _check(key)
        with self._lock:
            record = self.polled(key[0], key[1], tags)
            if action != record.action:
                raise Invalid(f"{'/'.join(key[:2])} was polled for {record.action}, not for {action}: poll again.")
            alignments = record.alignments if alignments is None else alignments
            layout = layout or record.layout
            data = datasets.aligned(record, layout, record.action)
            name = _name(key)
            connections = [*record.connections, *([] if name in record.connections else [name])]
            record = record.model_copy(update={"alignments": alignments, "layout": layout, "connections": connections})
            self._write(record)
            live = _name(key) in self.live(key[:2])

            def store(meta: str, predicted: NDArray[Any], scores: NDArray[Any]) -> dict[str, Any]:
                return self._store(key, action, data, meta, predicted, scores)

            self._sessions.open(
                Session(
                    key=key,
                    participant_id=participant_id,
                    token=token or secrets.token_urlsafe(32),
                    action=action,
                    data={meta: each.split for meta, each in data.items()},
                    record=store,
                    trace_id=trace_id(),
                )
            )
        metas = ", ".join(data)
        log.info("session opened", **_ids(key), code=201, participant_id=participant_id, action=action, metas=metas)
        return record, live

    def predict(self, key: Key, inferences: dict[Meta, tuple[list[Any], list[Any]]]) -> Record:
        """Compute and store the results of (y_pred, y_score) per meta of an initialised combination."""
        _check(key)
        self._record(key[:2])
        session = self._sessions.get(key)
        figures = {meta: [_figures(meta, values) for values in given] for meta, given in inferences.items()}
        for meta, (y_pred, y_score) in figures.items():
            session.record(meta, y_pred, y_score)
        return self._record(key[:2])

    def terminate(self, key: Key) -> Record:
        """Drop the session of a combination; others stay. Raises `NotFound` if it was not initialised."""
        _check(key)
        record = self._record(key[:2])
        if not self._sessions.close(key):
            raise NotFound(f"{'/'.join(key)} is not initialised, so there is nothing to terminate.")
        log.info("session closed", **_ids(key), code=200)
        return record

    def live(self, project: Project) -> list[str]:
        """Return the (experiment, run) pairs of `project` that are initialised, as text."""
        opened = self._sessions.keys()
        return [_name(key) for key in opened if key[:2] == project]

    def _work(self) -> None:
        while True:
            self._queue.get()()

    def _do(self, job: _Job) -> None:
        reason = None
        with bound(**_ids(job.project)):
            try:
                self._prepare(job)
            except SynergosError as error:
                reason = error.message
                log.warning("poll failed", code=error.status, reason=reason)
            except Exception:
                reason = "The data could not be prepared because of an internal error: see the worker's log."
                log.exception("poll failed", code=500)
        with self._lock:
            self._pending.remove(job)
            if reason:
                self._failed[job.project] = (job.tags, reason)

    def _prepare(self, job: _Job) -> None:
        begin = time.perf_counter()
        fingerprint = self._fingerprint(job)
        folder = self._folder.joinpath(*job.project)
        before = self._read(job.project)
        layout = before.layout if before and before.action == job.action else Layout()
        with outputs.preparing(folder) as fresh:
            prepared = datasets.prepare(
                self._data,
                job.tags,
                job.action,
                fresh,
                minimum_rows=self._minimum_rows,
                layout=layout,
                final=folder / PREPROCESSING,
            )
            with self._lock:
                # A combination may have been initialised or stored meanwhile.
                before = self._read(job.project)
                record = Record(
                    key={"collab_id": job.project[0], "project_id": job.project[1]},
                    created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    action=job.action,
                    tags=job.tags,
                    fingerprint=fingerprint,
                    layout=layout,
                    connections=before.connections if before else [],
                    results=before.results if before else {},
                    **dict(prepared),
                )
                outputs.publish(folder, _as_json(record))
        log.info(
            "data prepared",
            code=200,
            rows_of={meta: facts["src_count"] for meta, facts in prepared.metadata.items()},
            columns_of={meta: len(header.X) for meta, header in prepared.headers.items()},
            seconds=round(time.perf_counter() - begin, 3),
        )

    def _store(
        self,
        key: Key,
        action: Action,
        data: dict[Meta, Aligned],
        meta: str,
        predicted: NDArray[Any],
        scores: NDArray[Any],
    ) -> dict[str, Any]:
        if meta not in data:
            raise Invalid(f"{'/'.join(key)} was initialised without a {meta} set; it has {', '.join(data)}.")
        folder = self._folder.joinpath(*key, meta)
        with self._lock:
            record = self._record(key[:2])
            result = outputs.write_inference(folder, meta, data[meta], action, predicted, scores)
            record.results.setdefault(_name(key), {})[meta] = result
            if meta in record.exports:
                record.exports[meta] |= {
                    kind: str(folder / f"inference_{kind}_{meta}.txt") for kind in ("predictions", "scores")
                }
            self._write(record)
        log.info("validated" if meta == "evaluate" else "predicted", **_ids(key), code=200, meta=meta)
        return result

    def _record(self, project: Project) -> Record:
        record = self._read(project)
        if record is None:
            raise NotFound(f"{'/'.join(project)} was never polled on this worker.")
        return record

    def _read(self, project: Project) -> Record | None:
        path = self._folder.joinpath(*project, OPERATIONS)
        with self._lock:
            try:
                return Record.model_validate_json(path.read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise Invalid(f"The worker cannot read {path}: {error.strerror}.") from None
            except ValidationError:
                log.warning("the stored record is not usable; the project has to be polled again", path=str(path))
        return None

    def _write(self, record: Record) -> None:
        path = self._folder / record.key["collab_id"] / record.key["project_id"] / OPERATIONS
        outputs.write(path, _as_json(record))

    def _fingerprint(self, job: _Job) -> str:
        """Identify the job and its files by name, size and times: cheap, and it notices every ordinary change."""
        seen: list[Any] = [job.action, job.tags.model_dump(), self._minimum_rows]
        for meta, folders in resolve(self._data, job.tags).items():
            for path in [path for folder in folders for path in files.of_tag(folder, "*")]:
                stat = path.stat()
                name = files.shown(self._data, path)
                seen.append([meta, name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def _ids(key: Sequence[str]) -> dict[str, str]:
    return dict(zip(("collab_id", "project_id", "expt_id", "run_id"), key, strict=False))


def _as_json(record: Record) -> str:
    return outputs.as_json(record.model_dump(mode="json"))


def _figures(meta: str, values: list[Any]) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise Invalid(
            f"inferences.{meta}: y_pred and y_score are lists of numbers, or of equally long lists."
        ) from None


def _project(collab_id: str, project_id: str) -> Project:
    return check_id(collab_id, "collab_id"), check_id(project_id, "project_id")


def _check(key: Key) -> None:
    for value, kind in zip(key, ("collab_id", "project_id", "expt_id", "run_id"), strict=True):
        check_id(value, kind)
    if key[2] in RESERVED:
        raise Invalid(f"expt_id {key[2]!r} is reserved for the worker's own files.")


def _name(key: Key) -> str:
    return str(key[2:])
