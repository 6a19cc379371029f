"""The client of an orchestrator: describe a federated project, train it, and read the results.

driver = Driver("172.18.0.2", 5000)
driver.collaborations.create("my_collaboration")
"""

from __future__ import annotations

from typing import Any

import httpx

from synergos import trace
from synergos.driver.base import DriverError, JobFailed, Task
from synergos.driver.jobs import AlignmentTask, JobTask, ModelTask, OptimizationTask, PredictionTask, ValidationTask
from synergos.driver.records import (
    CollaborationTask,
    ExperimentTask,
    ParticipantTask,
    ProjectTask,
    RegistrationTask,
    RunTask,
    TagTask,
)

__all__ = [
    "AlignmentTask",
    "CollaborationTask",
    "Driver",
    "DriverError",
    "ExperimentTask",
    "JobFailed",
    "JobTask",
    "ModelTask",
    "OptimizationTask",
    "ParticipantTask",
    "PredictionTask",
    "ProjectTask",
    "RegistrationTask",
    "RunTask",
    "TagTask",
    "Task",
    "ValidationTask",
]


class Driver:
    """Access to all resources of a TTP or Director. Each property makes a new task object.

    Args:
        host: name or address of the orchestrator.
        port: its REST port.
        is_secured: use HTTPS.
        timeout: seconds that an answer may take, None for ever.
        job_timeout: the same for requests that are answered when a job on the grid has ended.
        raise_on_error: raise `DriverError` instead of returning an error as any other answer.
        trace_id: 32 hexadecimal digits that the grid's logs carry for all requests of this object; a new id without it.

    Attributes:
        trace_id: the id that was given or made.

    Raises:
        ValueError: `trace_id` is not usable.
    """

    def __init__(
        self,
        host: str,
        port: int,
        is_secured: bool = False,
        *,
        timeout: float | None = 60.0,
        job_timeout: float | None = None,
        raise_on_error: bool = False,
        trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace.check(trace_id) if trace_id else trace.new()
        self.address = f"{'https' if is_secured else 'http'}://{host}:{port}"
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "job_timeout": job_timeout,
            "raise_on_error": raise_on_error,
            "client": httpx.Client(follow_redirects=True),
            "trace_id": self.trace_id,
        }

    @property
    def collaborations(self) -> CollaborationTask:
        """Collaborations and their components."""
        return CollaborationTask(self.address, **self._options)

    @property
    def projects(self) -> ProjectTask:
        """Projects of a collaboration."""
        return ProjectTask(self.address, **self._options)

    @property
    def experiments(self) -> ExperimentTask:
        """Model architectures of a project."""
        return ExperimentTask(self.address, **self._options)

    @property
    def runs(self) -> RunTask:
        """Hyperparameters for an experiment."""
        return RunTask(self.address, **self._options)

    @property
    def participants(self) -> ParticipantTask:
        """Owners of data."""
        return ParticipantTask(self.address, **self._options)

    @property
    def registrations(self) -> RegistrationTask:
        """Participants' places in projects, with their workers."""
        return RegistrationTask(self.address, **self._options)

    @property
    def tags(self) -> TagTask:
        """Data that a participant brings into a project."""
        return TagTask(self.address, **self._options)

    @property
    def alignments(self) -> AlignmentTask:
        """Agreement on features and classes."""
        return AlignmentTask(self.address, **self._options)

    @property
    def models(self) -> ModelTask:
        """Training."""
        return ModelTask(self.address, **self._options)

    @property
    def optimizations(self) -> OptimizationTask:
        """Search for hyperparameters."""
        return OptimizationTask(self.address, **self._options)

    @property
    def validations(self) -> ValidationTask:
        """Quality on the participants' `evaluate` data."""
        return ValidationTask(self.address, **self._options)

    @property
    def predictions(self) -> PredictionTask:
        """Predictions for a participant's `predict` data."""
        return PredictionTask(self.address, **self._options)

    @property
    def jobs(self) -> JobTask:
        """What the grid does and did: queue, progress, reasons; cancellation."""
        return JobTask(self.address, **self._options)
