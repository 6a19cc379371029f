"""Synergos: federated learning across organisations. `from synergos import Driver` is the client of a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synergos.driver import (
        AlignmentTask,
        CollaborationTask,
        Driver,
        DriverError,
        ExperimentTask,
        JobFailed,
        JobTask,
        ModelTask,
        OptimizationTask,
        ParticipantTask,
        PredictionTask,
        ProjectTask,
        RegistrationTask,
        RunTask,
        TagTask,
        ValidationTask,
    )

__version__ = "1.3.0"

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
    "ValidationTask",
]


def __getattr__(name: str) -> Any:
    # The services import this package too: they must not pay for the client, nor the client for them.
    if name in __all__:
        from synergos import driver

        return getattr(driver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
