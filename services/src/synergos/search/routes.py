"""Searches: the resource `optimizations` of an experiment."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from synergos.errors import Forbidden, NotFound
from synergos.orchestrator import assemble
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.kinds import EXPERIMENT, TRIAL, VALIDATION
from synergos.orchestrator.ledger import Job
from synergos.orchestrator.queue import JobQueue
from synergos.orchestrator.render import show
from synergos.rest import success
from synergos.search.order import SearchOrder, settle
from synergos.search.trials import Trial, Trials, best_of, grids_of

_PATH = "/collaborations/{collab_id}/projects/{project_id}/models/{expt_id}/optimizations"
_NOWHERE = "Optimization is only active in a Synergos cluster, and this is a Synergos Basic or Plus."


def create_router(database: Database, queue: JobQueue) -> APIRouter:
    """Return the routes of searches at the Director of a cluster."""
    api = APIRouter(prefix="/ttp/train")

    @api.get(_PATH)
    def get_optimizations(collab_id: str, project_id: str, expt_id: str) -> Response:
        """Validations of the trials of all searches; beside them, `search` tells of the newest search."""
        ids = {"collab_id": collab_id, "project_id": project_id, "expt_id": expt_id}
        with database.read() as records:
            found = [
                {**item, "kind": "Optimization"}
                for item in show(records, records.select(VALIDATION, **ids))
                if item["key"]["run_id"].startswith(TRIAL)
            ]
        if not found:
            raise NotFound(
                f"Optimizations do not exist for {EXPERIMENT.label(ids)}: POST optimizations first, or wait until a "
                "trial has been validated."
            )
        searches = [job for job, _ in queue.read_all(ids) if job.process == "optimize"]
        search = describe(database, queue, searches[-1]) if searches else None
        return success("optimizations.get", ids, found, search=search)

    @api.post(_PATH)
    def post_optimizations(collab_id: str, project_id: str, expt_id: str, body: SearchOrder) -> Response:
        """Start a search; answered at once, with its job's id as `job_id`."""
        ids = {"collab_id": collab_id, "project_id": project_id, "expt_id": expt_id}
        with database.read() as records:
            records.get(EXPERIMENT, ids)
            action = assemble.action(records, ids)
        order = settle(body, action).model_dump(mode="json", by_alias=True)
        job = queue.submit("optimize", ids, order).job
        return success("optimizations.post", ids, [], message=queue.notice, job_id=job.job_id)

    return api


def create_closed_router() -> APIRouter:
    """Return the routes of searches where there are none."""
    api = APIRouter(prefix="/ttp/train")

    @api.get(_PATH)
    @api.post(_PATH)
    def optimizations(collab_id: str, project_id: str, expt_id: str) -> Response:
        raise Forbidden(_NOWHERE)

    return api


def describe(database: Database, queue: JobQueue, job: Job) -> Body:
    """Return what there is to tell of a search: its trials so far and the best of them."""
    order = SearchOrder.model_validate(job.order)
    with database.read() as records:
        trials = Trials(records).of(job.job_id)
    best = best_of(trials, order.optimize_mode)

    def shown(trial: Trial) -> Body:
        at = trial.grids
        if trial.state == "running":
            at = grids_of(queue, {**job.ids, "run_id": trial.run_id})
        item = {
            "run_id": trial.run_id,
            "number": trial.number,
            # A search whose end could not be stored leaves trials that nobody follows.
            "state": trial.state if job.pending or trial.state != "running" else "failed",
            "value": trial.value,
            "parameters": trial.parameters,
            "grids": at,
            "best": trial is best,
        }
        return item | ({"reason": trial.reason} if trial.reason else {})

    return {
        "job_id": job.job_id,
        "state": job.state,
        "metric": order.metric,
        "optimize_mode": order.optimize_mode,
        "sampler": order.sampler,
        "pruner": order.pruner,
        "seed": order.seed,
        "trials": [shown(trial) for trial in trials],
        "best": {"run_id": best.run_id, "value": best.value, "parameters": best.parameters} if best else None,
    }
