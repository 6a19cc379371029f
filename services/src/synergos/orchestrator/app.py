"""The orchestrator's REST application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI

from synergos import __version__
from synergos.orchestrator import connect, evaluate, jobs, train
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.docs import mount_docs
from synergos.orchestrator.grids import Grids
from synergos.orchestrator.ledger import Process
from synergos.orchestrator.queue import JobQueue, Task
from synergos.rest import create_api
from synergos.search import routes
from synergos.tracking.tracker import Tracker


def create_app(
    grids: Grids, database: Database, job_lock: Path, mlflow_uri: str = "", tags: Mapping[str, str] | None = None
) -> FastAPI:
    """Return the REST API of phases 1 to 3 (contract of 2021) and of jobs, with the database brought up to date.

    Jobs of an earlier process go on when the application starts. `app.state.jobs` is the queue: call its `stop` before
    the process ends, so that no request waits for a job then.

    Args:
        grids: who does the jobs.
        database: the records.
        job_lock: file that is locked while a job runs.
        mlflow_uri: of the MLflow server that is told of trainings; empty for none.
        tags: what its runs are marked with.

    Raises:
        synergos.errors.Invalid: the database cannot be used, or a newer version made it.
    """
    database.migrate()
    processes: dict[Process, Callable[[Task], list[Body]]] = {
        "align": train.align,
        "train": train.train,
        "validate": evaluate.validate,
        "predict": evaluate.predict,
    }
    if not grids.here:
        processes["optimize"] = lambda task: _search(queue, task)
    tracker = Tracker(database, mlflow_uri, tags, here=grids.here) if mlflow_uri else None
    queue = JobQueue(database, grids, job_lock, processes, tracker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Not before: the ports are taken then, so no other process works on the same jobs.
        await anyio.to_thread.run_sync(queue.start)
        if tracker is not None:
            tracker.start()
        yield

    app = create_api("Synergos orchestrator", lifespan)
    app.state.jobs = queue
    # Before the runs, whose path would take it for one.
    searches = routes.create_closed_router() if grids.here else routes.create_router(database, queue)
    phases = {
        "Synergos: connect": [connect.create_router(database, queue)],
        "Synergos: train": [searches, train.create_router(database, queue), jobs.create_router(database, queue)],
        "Synergos: evaluate": [evaluate.create_router(database, queue)],
    }
    for routers in phases.values():
        for router in routers:
            app.include_router(router)
    mount_docs(app, phases)

    @app.get("/health")
    def health() -> dict[str, str]:
        database.ping()
        return {"status": "ok", "version": __version__}

    return app


def _search(queue: JobQueue, task: Task) -> list[Body]:
    # Only where there are searches: it loads Optuna.
    from synergos.search.job import Search

    return Search(queue, task).run()
