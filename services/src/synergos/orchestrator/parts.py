"""The records of what other grids do of a job: one part per message."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Literal

import sqlalchemy as sa

from synergos.orchestrator.database import PARTS, Body, Records

State = Literal["sending", "sent", "taken", "answered", "lost"]


@dataclass(frozen=True)
class Part:
    """A part of a job.

    Attributes:
        part: name of the part within its job.
        attempt: how often it was given out; an answer to an older attempt does not count.
        state: `sending`: perhaps at the broker, `sent`: surely there, `taken` by a grid, `answered` by it, `lost`:
            given up by the broker.
        grid, ttp: who took it last.
        answer: what came back, until the job has ended.
    """

    job_id: str
    part: str
    attempt: int = 1
    state: State = "sending"
    grid: int | None = None
    ttp: str | None = None
    answer: Body | None = None


# So many ids are not worth a condition.
_MANY = 100
_NAMES = list(Part.__dataclass_fields__)


class Parts:
    """What can be done with the records of parts inside one transaction."""

    def __init__(self, records: Records) -> None:
        self._connection = records.connection

    def find(self, job_id: str, part: str) -> Part | None:
        """Return a part, None if it is not known."""
        return next(iter(self._select(PARTS.c.job_id == job_id, PARTS.c.part == part)), None)

    def of(self, job_ids: Collection[str]) -> list[Part]:
        """Return the parts of jobs, oldest first."""
        few = [PARTS.c.job_id.in_(job_ids)] if len(job_ids) < _MANY else []
        return [part for part in self._select(*few) if part.job_id in job_ids]

    def save(self, part: Part) -> None:
        """Store a part of a job that exists."""
        values = asdict(part)
        same = (PARTS.c.job_id == part.job_id, PARTS.c.part == part.part)
        if self._connection.execute(sa.update(PARTS).where(*same).values(values)).rowcount == 0:
            self._connection.execute(sa.insert(PARTS).values(values))

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Part]:
        rows = self._connection.execute(sa.select(PARTS).where(*conditions).order_by(PARTS.c.doc_id)).mappings()
        return [Part(**{name: row[name] for name in _NAMES}) for row in rows]
