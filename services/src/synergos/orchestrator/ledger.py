"""The records of jobs: those that wait, the one that runs, and the newest of those that ended."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal

import sqlalchemy as sa

from synergos.errors import NotFound
from synergos.orchestrator.database import JOBS, PARTS, ROUNDS, Body, Records
from synergos.orchestrator.kinds import SCOPE, Key

Process = Literal["align", "train", "optimize", "validate", "predict"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
PENDING: tuple[State, ...] = ("queued", "running")

# Bounds of what is kept: the loss histories beside the models hold every round.
KEPT_JOBS = 1000
KEPT_ROUNDS = 2000
KEPT_ROUNDS_IN_ALL = 50_000


def now() -> datetime:
    """Return the time in UTC, as it is stored."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass
class Job:
    """One job on the grid.

    Attributes:
        job_id: uuid4 in hexadecimal digits.
        ids: what limits it: collab_id, project_id, … as far as the request named them.
        order: body of the request.
        reason: why it failed or was cancelled.
        attempts: starts since it last got on; more than one if the process ended in the middle of it.
        current: combination under way, or in which it ended: project_id, expt_id, run_id.
        finished: combinations whose results are stored.
        trace_id: of the request; None for jobs of versions that knew none.
    """

    doc_id: int
    job_id: str
    process: Process
    ids: Key
    order: Body
    state: State
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str | None = None
    attempts: int = 0
    current: Key | None = None
    finished: list[Key] = field(default_factory=list)
    trace_id: str | None = None

    @property
    def pending(self) -> bool:
        """Whether it waits or runs."""
        return self.state in PENDING

    def within(self, key: Mapping[str, str]) -> bool:
        """Tell whether everything that it works on belongs to the record of `key`."""
        return all(self.ids.get(name) == value for name, value in key.items())


_STORED = [item.name for item in fields(Job) if item.name != "ids"]
_CHANGING = ("state", "started_at", "ended_at", "reason", "attempts", "current", "finished")


class Ledger:
    """What can be done with the records of jobs inside one transaction."""

    def __init__(self, records: Records) -> None:
        self._connection = records.connection

    def add(self, process: Process, ids: Key, order: Body, trace_id: str | None = None) -> Job:
        """Store a new job, which waits."""
        values: dict[str, Any] = {
            "job_id": uuid.uuid4().hex,
            "process": process,
            "order": order,
            "state": "queued",
            "created_at": now(),
            "trace_id": trace_id,
        }
        self._connection.execute(sa.insert(JOBS).values({**values, **ids, "attempts": 0, "finished": []}))
        return self.get(values["job_id"])

    def get(self, job_id: str) -> Job:
        """Return a job or raise `NotFound`."""
        for job in self._select(JOBS.c.job_id == job_id):
            return job
        raise NotFound(f"Job {job_id!r} does not exist, or ended so long ago that it was forgotten.")

    def select(self, ids: Mapping[str, str | None]) -> list[Job]:
        """Return the jobs that name all `ids` that are not None, oldest first."""
        return self._select(*(JOBS.c[name] == value for name, value in ids.items() if value is not None))

    def pending(self, job_id: str | None = None) -> list[Job]:
        """Return the jobs that have not ended, oldest first.

        Args:
            job_id: the only one that is asked for.
        """
        return self._select(JOBS.c.state.in_(PENDING), *([JOBS.c.job_id == job_id] if job_id else []))

    def save(self, job: Job) -> None:
        """Store what has changed of a job; nothing happens if it was forgotten meanwhile."""
        values = {name: getattr(job, name) for name in _CHANGING}
        self._connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job.job_id).values(values))
        if not job.pending:
            # What its parts brought is stored, or of no use.
            self._connection.execute(sa.update(PARTS).where(PARTS.c.job_id == job.job_id).values(answer=None))

    def rounds(self, job_id: str) -> list[Body]:
        """Return the rounds that are kept of a job, in order."""
        kept = sa.select(ROUNDS).where(ROUNDS.c.job_id == job_id).order_by(ROUNDS.c.doc_id)
        return [
            {"expt_id": row["expt_id"], "run_id": row["run_id"], **row["body"]}
            for row in self._connection.execute(kept).mappings()
        ]

    def add_rounds(self, job_id: str, rounds: Sequence[Body]) -> None:
        """Add rounds behind the older ones; a training that was taken up again replaces those that it repeats."""

        def combination(item: Body) -> tuple[str, str]:
            return item["expt_id"], item["run_id"]

        for (expt_id, run_id), group in groupby(rounds, combination):
            new = list(group)
            of_job = sa.and_(ROUNDS.c.job_id == job_id, ROUNDS.c.expt_id == expt_id, ROUNDS.c.run_id == run_id)
            self._connection.execute(sa.delete(ROUNDS).where(of_job, ROUNDS.c.round >= new[0]["round"]))
            self._connection.execute(sa.insert(ROUNDS), [_round(job_id, item) for item in new])
        self._keep(KEPT_ROUNDS, ROUNDS, ROUNDS.c.job_id == job_id)

    def got_on(self, job_id: str) -> None:
        """Note that a job does not stand still."""
        self._connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job_id).values(attempts=0))

    def forget_old(self) -> None:
        """Delete all but the newest of the jobs that ended, and of the rounds."""
        self._keep(KEPT_JOBS, JOBS, JOBS.c.state.not_in(PENDING))
        self._keep(KEPT_ROUNDS_IN_ALL, ROUNDS)

    def forget_within(self, key: Mapping[str, str]) -> None:
        """Delete the jobs that ended and that worked on nothing but what belongs to the record of `key`."""
        inside = (JOBS.c[name] == value for name, value in key.items())
        self._connection.execute(sa.delete(JOBS).where(JOBS.c.state.not_in(PENDING), *inside))

    def count(self) -> int:
        """Return the number of jobs."""
        return self._connection.execute(sa.select(sa.func.count()).select_from(JOBS)).scalar_one()

    def clear(self) -> None:
        """Delete all jobs."""
        self._connection.execute(sa.delete(JOBS))

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Job]:
        rows = self._connection.execute(sa.select(JOBS).where(*conditions).order_by(JOBS.c.doc_id)).mappings()
        return [
            Job(
                ids={name: row[name] for name in SCOPE if row[name] is not None},
                **{name: row[name] for name in _STORED},
            )
            for row in rows
        ]

    def _keep(self, newest: int, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> None:
        oldest = sa.select(table.c.doc_id).where(*conditions).order_by(table.c.doc_id.desc()).limit(1).offset(newest)
        # NULL, and so no row, while there are fewer.
        self._connection.execute(sa.delete(table).where(*conditions, table.c.doc_id <= oldest.scalar_subquery()))


def _round(job_id: str, item: Body) -> Body:
    body = {name: value for name, value in item.items() if name not in ("expt_id", "run_id")}
    return {
        "job_id": job_id,
        "expt_id": item["expt_id"],
        "run_id": item["run_id"],
        "round": item["round"],
        "body": body,
    }
