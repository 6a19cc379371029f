"""The records of the trials of searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from synergos.orchestrator.database import TRIALS, Records
from synergos.orchestrator.kinds import Key
from synergos.orchestrator.queue import JobQueue

State = Literal["running", "complete", "pruned", "failed"]
_COLUMNS = ("job_id", "number", "run_id", "state", "value")


@dataclass
class Trial:
    """One trial of a search.

    Attributes:
        job_id: the search.
        number: from 0.
        point: of the search space, see `space.Range`.
        parameters: the run parameters that were searched for, at this point.
        value: metric, of a trial that is complete.
        reports: round → loss by which trials were compared, the lowest one up to there.
        rungs: what the pruner noted.
        grids: indexes of those that worked on it.
        reason: why it ended early or failed.
    """

    job_id: str
    number: int
    run_id: str
    point: dict[str, float]
    parameters: dict[str, Any]
    state: State = "running"
    value: float | None = None
    reports: dict[str, float] = field(default_factory=dict)
    rungs: dict[str, float] = field(default_factory=dict)
    grids: list[int] = field(default_factory=list)
    reason: str | None = None


_BODY = [name for name in Trial.__dataclass_fields__ if name not in _COLUMNS]


class Trials:
    """What can be done with the records of trials inside one transaction."""

    def __init__(self, records: Records) -> None:
        self._connection = records.connection

    def of(self, job_id: str) -> list[Trial]:
        """Return the trials of a search, in the order of their numbers."""
        found = sa.select(TRIALS).where(TRIALS.c.job_id == job_id).order_by(TRIALS.c.number)
        rows = self._connection.execute(found).mappings()
        return [Trial(**{name: row[name] for name in _COLUMNS}, **row["body"]) for row in rows]

    def add(self, trial: Trial) -> None:
        """Store a new trial."""
        self._connection.execute(sa.insert(TRIALS).values(_row(trial)))

    def save(self, trial: Trial) -> None:
        """Store what has changed of a trial."""
        same = (TRIALS.c.job_id == trial.job_id, TRIALS.c.number == trial.number)
        self._connection.execute(sa.update(TRIALS).where(*same).values(_row(trial)))


def best_of(trials: Sequence[Trial], mode: Literal["max", "min"]) -> Trial | None:
    """Return the trial with the best value, the first of them, or None."""
    sense = -1 if mode == "max" else 1
    values = [(sense * trial.value, trial) for trial in trials if trial.state == "complete" and trial.value is not None]
    return min(values, key=lambda each: each[0])[1] if values else None


def grids_of(queue: JobQueue, key: Key) -> list[int]:
    """Return the indexes of the grids that worked on a run."""
    notes = queue.note(*(job for job, _ in queue.read_all(key))).values()
    return sorted({part["grid"] for note in notes for part in note["parts"] if "grid" in part})


def _row(trial: Trial) -> Mapping[str, Any]:
    return {
        **{name: getattr(trial, name) for name in _COLUMNS},
        "body": {name: getattr(trial, name) for name in _BODY},
    }
