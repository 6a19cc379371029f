"""The orchestrator's REST application."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from synergos import __version__
from synergos.jobs import Engine
from synergos.orchestrator import connect, evaluate, train
from synergos.orchestrator.database import Database
from synergos.orchestrator.docs import mount_docs
from synergos.orchestrator.queue import JobQueue
from synergos.rest import create_api


def create_app(engine: Engine, database_url: str, job_lock: Path) -> FastAPI:
    """Return the REST API of phases 1 to 3 (contract of 2021), with the database brought up to date.

    Args:
        engine: does the jobs of this grid.
        database_url: SQLAlchemy URL of the records.
        job_lock: file that is locked while a job runs.

    Raises:
        synergos.errors.Invalid: the database cannot be used, or a newer version made it.
    """
    database = Database(database_url)
    database.migrate()
    queue = JobQueue(job_lock)
    app = create_api("Synergos orchestrator")
    phases = {
        "Synergos: connect": connect.create_router(database),
        "Synergos: train": train.create_router(database, engine, queue),
        "Synergos: evaluate": evaluate.create_router(database, engine, queue),
    }
    for router in phases.values():
        app.include_router(router)
    mount_docs(app, phases)

    @app.get("/health")
    def health() -> dict[str, str]:
        database.ping()
        return {"status": "ok", "version": __version__}

    return app
