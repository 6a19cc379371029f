"""What MLflow has yet to be told, in the order in which it happened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from synergos.orchestrator.database import OUTBOX, TRACKS, Body, Records
from synergos.orchestrator.kinds import RUN

Kind = Literal["start", "metrics", "tags", "model", "end"]
# Bytes of JSON; about four million points.
LIMIT = 256 * 2**20
# Runs of which is remembered where MLflow has them, for later validations.
KEPT_TRACKS = 10_000


@dataclass
class Track:
    """One training of one combination, and the run of MLflow that shows it.

    Attributes:
        track_id: 32 hexadecimal digits; the run carries them as a tag, by which it is found again.
        job_id: job that trains.
        rounds: rounds that the outbox took; a training that is taken up again repeats some.
        dropped: points that the outbox had no room for.
        status: how it ended; None before.
        mlflow_id: id of MLflow's run; None before MLflow knows it.
        validated: participant -> hash of its newest statistics.
    """

    doc_id: int
    track_id: str
    job_id: str
    collab_id: str
    project_id: str
    expt_id: str
    run_id: str
    rounds: int
    dropped: int
    status: str | None
    mlflow_id: str | None
    validated: dict[str, str]


@dataclass(frozen=True)
class Item:
    """One entry: `body` by `kind`, see `sender.Sender`."""

    doc_id: int
    track_id: str
    kind: Kind
    body: Body


class Outbox:
    """What can be done with tracks and entries inside one transaction."""

    def __init__(self, records: Records) -> None:
        self._connection = records.connection

    def open(self, job_id: str, key: Mapping[str, str]) -> tuple[Track, bool]:
        """Return the track of a combination in a job, and whether it is new."""
        ids = {name: key[name] for name in RUN.key}
        track_id = hashlib.sha256(json.dumps([job_id, *ids.values()]).encode()).hexdigest()[:32]
        track = self.find(track_id)
        if track is not None:
            return track, False
        values = {"track_id": track_id, "job_id": job_id, **ids, "rounds": 0, "dropped": 0, "validated": {}}
        self._connection.execute(sa.insert(TRACKS).values(values))
        oldest = sa.select(TRACKS.c.doc_id).order_by(TRACKS.c.doc_id.desc()).limit(1).offset(KEPT_TRACKS)
        waiting = sa.exists().where(OUTBOX.c.track_id == TRACKS.c.track_id)
        ended = TRACKS.c.status.is_not(None)
        self._connection.execute(sa.delete(TRACKS).where(TRACKS.c.doc_id <= oldest.scalar_subquery(), ended, ~waiting))
        [track] = self._select(TRACKS.c.track_id == track_id)
        return track, True

    def find(self, track_id: str) -> Track | None:
        """Return a track."""
        return next(iter(self._select(TRACKS.c.track_id == track_id)), None)

    def newest(self, key: Mapping[str, str]) -> Track | None:
        """Return the track of the newest training of a combination that gave a model."""
        found = self._select(*(TRACKS.c[name] == key[name] for name in RUN.key), TRACKS.c.status == "FINISHED")
        return found[-1] if found else None

    def unfinished(self, job_id: str) -> list[Track]:
        """Return the tracks of a job that have not ended."""
        return self._select(TRACKS.c.job_id == job_id, TRACKS.c.status.is_(None))

    def change(self, track: Track, **values: Any) -> None:
        """Store and set attributes of a track."""
        self._connection.execute(sa.update(TRACKS).where(TRACKS.c.doc_id == track.doc_id).values(values))
        for name, value in values.items():
            setattr(track, name, value)

    def add(self, track: Track, kind: Kind, body: Body) -> None:
        """Put an entry at the end; points for which there is no room are counted instead."""
        size = len(json.dumps(body))
        if kind == "metrics" and self.size() + size > LIMIT:
            self.change(track, dropped=track.dropped + len(body["points"]))
            return
        self._connection.execute(sa.insert(OUTBOX).values(track_id=track.track_id, kind=kind, size=size, body=body))

    def first(self, limit: int) -> list[Item]:
        """Return the oldest entries."""
        rows = self._connection.execute(sa.select(OUTBOX).order_by(OUTBOX.c.doc_id).limit(limit)).mappings()
        return [Item(row["doc_id"], row["track_id"], row["kind"], row["body"]) for row in rows]

    def remove(self, items: Sequence[Item]) -> None:
        """Delete entries."""
        self._connection.execute(sa.delete(OUTBOX).where(OUTBOX.c.doc_id.in_([item.doc_id for item in items])))

    def forget(self, track_id: str) -> None:
        """Delete all entries of a track."""
        self._connection.execute(sa.delete(OUTBOX).where(OUTBOX.c.track_id == track_id))

    def size(self) -> int:
        """Return the bytes of all entries."""
        return int(self._connection.execute(sa.select(sa.func.coalesce(sa.func.sum(OUTBOX.c.size), 0))).scalar_one())

    def count(self) -> int:
        """Return the number of entries."""
        return self._connection.execute(sa.select(sa.func.count()).select_from(OUTBOX)).scalar_one()

    def clear(self) -> None:
        """Delete all tracks and entries."""
        self._connection.execute(sa.delete(TRACKS))

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Track]:
        rows = self._connection.execute(sa.select(TRACKS).where(*conditions).order_by(TRACKS.c.doc_id)).mappings()
        return [Track(**row) for row in rows]
