"""Jobs: what the grid does and did for the requests of phases 2 and 3."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from synergos.orchestrator import schemas
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.ledger import Job
from synergos.orchestrator.queue import JobQueue
from synergos.rest import success
from synergos.search.routes import describe

_CANCEL_SECONDS = 10.0


def create_router(database: Database, queue: JobQueue) -> APIRouter:
    """Return the routes of jobs. They are made by the POST requests of phases 2 and 3."""
    api = APIRouter(prefix="/ttp/jobs")

    @api.get("")
    def get_jobs(filters: Annotated[schemas.JobFilters, Query()]) -> Response:
        """All jobs that match, oldest first, without their rounds. The newest 1000 of those that ended are kept."""
        given = filters.model_dump(exclude_none=True)
        ids = {name: value for name, value in given.items() if name not in ("state", "process")}
        found = [
            (job, place)
            for job, place in queue.read_all(ids)
            if filters.state in (None, job.state) and filters.process in (None, job.process)
        ]
        notes = queue.note(*(job for job, _ in found))
        return success("jobs.get", given, [_show(job, place, note=notes.get(job.job_id)) for job, place in found])

    @api.get("/{job_id}")
    def get_job(job_id: str) -> Response:
        """One job; `progress.rounds` lists the rounds of its trainings, the newest 2000, `progress.search` trials."""
        job, rounds, place = queue.read(job_id)
        search = job.process == "optimize"
        note = {"search": describe(database, queue, job)} if search else queue.note(job).get(job_id)
        return success("job.get", {"job_id": job_id}, _show(job, place, None if search else rounds, note))

    @api.delete("/{job_id}", responses={202: {"description": "It is ending, but has not ended within 10 seconds"}})
    def delete_job(job_id: str) -> Response:
        """Cancel a job that waits or runs; its record stays. Answered when it has ended, or after 10 seconds."""
        job = queue.cancel(job_id, f"Cancelled by DELETE /ttp/jobs/{job_id}.", _CANCEL_SECONDS)
        shown = _show(job)
        if job.pending:
            shown["note"] = "The job is being cancelled, but a worker takes its time: read the job again."
        return success("job.delete", {"job_id": job_id}, shown, 202 if job.pending else 200)

    return api


def _show(job: Job, place: int | None = None, rounds: list[Body] | None = None, note: Body | None = None) -> Body:
    shown = {
        "doc_id": str(job.doc_id),
        "kind": "Job",
        "key": {"job_id": job.job_id, **job.ids},
        "job_id": job.job_id,
        "process": job.process,
        "trace_id": job.trace_id,
        "order": job.order,
        "state": job.state,
        "place": place,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "ended_at": _iso(job.ended_at),
        "reason": job.reason,
    }
    progress = {"current": job.current, "finished": job.finished, "rounds": rounds, **(note or {})}
    return {
        **{name: value for name, value in shown.items() if value is not None},
        "progress": {name: value for name, value in progress.items() if value is not None},
    }


def _iso(time: datetime | None) -> str | None:
    return f"{time.isoformat(timespec='milliseconds')}Z" if time else None
