"""Phase 2: agree on the data (alignments) and train (models)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from synergos.errors import NotFound
from synergos.jobs import AlignJob, RoundProgress, TrainJob, Watch
from synergos.orchestrator import assemble, schemas
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.kinds import ALIGNMENT, EXPERIMENT, MODEL, PROJECT
from synergos.orchestrator.queue import JobQueue, Step, Task
from synergos.orchestrator.render import show
from synergos.rest import success

_PROJECT = "/collaborations/{collab_id}/projects/{project_id}"


def create_router(database: Database, queue: JobQueue) -> APIRouter:
    """Return the routes of phase 2; a request that starts a job is answered when the job has ended."""
    api = APIRouter(prefix="/ttp/train")

    @api.get(f"{_PROJECT}/alignments")
    def get_alignments(collab_id: str, project_id: str) -> Response:
        project = {"collab_id": collab_id, "project_id": project_id}
        with database.read() as records:
            found = show(records, records.select(ALIGNMENT, **project))
        if not found:
            raise NotFound(f"MFA has not been performed for {PROJECT.label(project)}: POST alignments first.")
        return success("alignments.get", project, found)

    @api.post(f"{_PROJECT}/alignments", status_code=201)
    async def post_alignments(collab_id: str, project_id: str, body: schemas.AlignmentOrder) -> Response:
        project = {"collab_id": collab_id, "project_id": project_id}
        data = await queue.run("align", project, body.model_dump())
        return success("alignments.post", project, data, 201, message=queue.notice)

    @api.get(f"{_PROJECT}/models")
    @api.get(f"{_PROJECT}/models/{{expt_id}}")
    @api.get(f"{_PROJECT}/models/{{expt_id}}/{{run_id}}")
    def get_models(collab_id: str, project_id: str, expt_id: str | None = None, run_id: str | None = None) -> Response:
        ids = {"collab_id": collab_id, "project_id": project_id, "expt_id": expt_id, "run_id": run_id}
        with database.read() as records:
            found = show(records, records.select(MODEL, **ids))
        if not found:
            raise NotFound("Models does not exist for specified keyword filters: POST models first.")
        return success("models.get", ids, found)

    @api.post(f"{_PROJECT}/models")
    @api.post(f"{_PROJECT}/models/{{expt_id}}")
    @api.post(f"{_PROJECT}/models/{{expt_id}}/{{run_id}}")
    async def post_models(
        collab_id: str,
        project_id: str,
        body: schemas.Order,
        expt_id: str | None = None,
        run_id: str | None = None,
    ) -> Response:
        ids = {"collab_id": collab_id, "project_id": project_id, "expt_id": expt_id, "run_id": run_id}
        data = await queue.run("train", ids, body.model_dump())
        return success("models.post", ids, data, message=queue.notice)

    return api


def align(task: Task) -> list[Body]:
    """Align a project, store the alignments and, with `auto_fix`, the experiments that changed."""
    project, order = task.project, schemas.AlignmentOrder.model_validate(task.job.order)
    with task.database.read() as records:
        job = AlignJob(
            collab_id=project["collab_id"],
            project_id=project["project_id"],
            action=assemble.action(records, project),
            parties=assemble.parties(records, project),
            experiments={
                experiment.key["expt_id"]: experiment.body["model"]
                for experiment in records.select(EXPERIMENT, **project)
            },
            auto_align=order.auto_align,
            auto_fix=order.auto_fix,
        )
    if not order.auto_align:
        return []
    result = task.engine.align(job)
    with task.writing() as records:
        for participant_id, alignment in result.alignments.items():
            records.put(ALIGNMENT, {**project, "participant_id": participant_id}, alignment.model_dump())
        for expt_id, model in result.experiments.items():
            experiment = records.get(EXPERIMENT, {**project, "expt_id": expt_id})
            records.change(experiment, {**experiment.body, "model": model})
        return show(records, records.select(ALIGNMENT, **project))


def train(task: Task) -> list[Body]:
    """Train every combination in the scope; each model is stored as soon as it is there."""
    project, order = task.project, schemas.Order.model_validate(task.job.order)
    with task.database.read() as records:
        action = assemble.action(records, project)
        combinations = assemble.combinations(records, project, *task.ids("expt_id", "run_id"))
        parties = assemble.parties(records, project)
        if order.auto_align:
            parties = assemble.aligned(parties, project)

    def one(step: Step) -> list[Body]:
        job = TrainJob(**vars(step.combination), action=action, parties=parties, auto_align=order.auto_align)
        training = task.tracker.begin(job, task.job.job_id) if task.tracker else None
        result = task.engine.train(job, _both(step.watch, training.watch) if training else step.watch)
        if order.auto_align:
            result.paths["global"]["basis"] = assemble.basis(step.combination, parties)
        with step.finishing() as records:
            model = records.put(MODEL, step.combination.key, result.paths)
            if task.tracker and training:
                task.tracker.trained(training, result, job, records)
            return show(records, [model])

    return [shown for found in task.every(combinations, one) for shown in found]


def _both(first: Watch, second: Watch) -> Watch:
    def watch(progress: RoundProgress) -> None:
        first(progress)
        second(progress)

    return watch
