"""Who does the jobs of an orchestrator: its own grid, or the grids of a cluster (see `synergos.director`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from synergos.jobs import Engine
from synergos.orchestrator.database import Body, Records
from synergos.orchestrator.ledger import Job, Process


class Grids(Protocol):
    """Where jobs are done.

    Attributes:
        owner: what the process is called in messages.
        here: whether jobs are done by this process: then requests are answered when their job has ended, nothing else
            may touch the grid meanwhile, and a job that brings the process down is not tried for ever.
    """

    owner: str
    here: bool

    @property
    def parallel(self) -> int:
        """Combinations of one job that are done at the same time."""

    def engine(self, job: Job) -> Engine:
        """Return what does the work of a job."""

    def check(self, records: Records, process: Process, ids: Mapping[str, str], order: Body) -> None:
        """Raise what there is to be said against a job before it is stored."""

    def choose(self, waiting: Sequence[Job], running: Sequence[Job]) -> Job | None:
        """Return which job to begin with now, None to wait until something has changed.

        Args:
            waiting: oldest first.
        """

    def start(self, reopen: Callable[[str], None]) -> None:
        """Called before the first job, when the ports are taken.

        Args:
            reopen: takes the id of a job that failed, and for which there is a result after all.
        """

    @property
    def notice(self) -> str | None:
        """What those should know whose job is taken now."""

    def note(self, jobs: Sequence[Job]) -> Mapping[str, Body]:
        """Return what can be told of the progress of jobs beside what their records say, by job id."""


class OneGrid:
    """The grid of this process: one job at a time, in the order of their arrival."""

    owner = "TTP"
    here = True
    parallel = 1
    notice = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def engine(self, job: Job) -> Engine:
        """Return the one engine."""
        return self._engine

    def check(self, records: Records, process: Process, ids: Mapping[str, str], order: Body) -> None:
        """Say nothing: what a job needs may come from one that waits before it."""

    def choose(self, waiting: Sequence[Job], running: Sequence[Job]) -> Job | None:
        """Return the oldest, once the grid is free."""
        return waiting[0] if waiting and not running else None

    def start(self, reopen: Callable[[str], None]) -> None:
        """There is nothing to prepare."""

    def note(self, jobs: Sequence[Job]) -> Mapping[str, Body]:
        """There is nothing else to tell."""
        return {}
