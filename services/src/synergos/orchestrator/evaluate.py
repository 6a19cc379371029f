"""Phase 3: measure trained models on the participants' data (validations, predictions)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from synergos.errors import Invalid, NotFound
from synergos.jobs import AlignJob, InferJob
from synergos.orchestrator import assemble, schemas
from synergos.orchestrator.database import Body, Database, Records
from synergos.orchestrator.kinds import ALIGNMENT, MODEL, PREDICTION, REGISTRATION, TAG, VALIDATION, Key
from synergos.orchestrator.queue import JobQueue, Step, Task
from synergos.orchestrator.render import show
from synergos.rest import success

_VALIDATIONS = "/collaborations/{collab_id}/projects/{project_id}/validations"
_PREDICTIONS = "/participants/{participant_id}/collaborations/{collab_id}/predictions"


def create_router(database: Database, queue: JobQueue) -> APIRouter:
    """Return the routes of phase 3; a request that starts a job is answered when the job has ended."""
    api = APIRouter(prefix="/ttp/evaluate")

    @api.get(_VALIDATIONS)
    @api.get(f"{_VALIDATIONS}/{{expt_id}}")
    @api.get(f"{_VALIDATIONS}/{{expt_id}}/{{run_id}}")
    @api.get(f"{_VALIDATIONS}/{{expt_id}}/{{run_id}}/{{participant_id}}")
    def get_validations(
        collab_id: str,
        project_id: str,
        expt_id: str | None = None,
        run_id: str | None = None,
        participant_id: str | None = None,
    ) -> Response:
        ids = {
            "collab_id": collab_id,
            "project_id": project_id,
            "expt_id": expt_id,
            "run_id": run_id,
            "participant_id": participant_id,
        }
        with database.read() as records:
            found = show(records, records.select(VALIDATION, **ids))
        if not found:
            raise NotFound("Validations do not exist for specified keyword filters: POST validations first.")
        return success("validations.get", ids, found)

    @api.post(_VALIDATIONS)
    @api.post(f"{_VALIDATIONS}/{{expt_id}}")
    @api.post(f"{_VALIDATIONS}/{{expt_id}}/{{run_id}}")
    @api.post(f"{_VALIDATIONS}/{{expt_id}}/{{run_id}}/{{participant_id}}")
    async def post_validations(
        collab_id: str,
        project_id: str,
        body: schemas.Order,
        expt_id: str | None = None,
        run_id: str | None = None,
        participant_id: str | None = None,
    ) -> Response:
        ids = {
            "collab_id": collab_id,
            "project_id": project_id,
            "expt_id": expt_id,
            "run_id": run_id,
            "participant_id": participant_id,
        }
        data = await queue.run("validate", ids, body.model_dump())
        return success("validations.post", ids, data, message=queue.notice)

    @api.get(_PREDICTIONS)
    @api.get(f"{_PREDICTIONS}/{{project_id}}")
    @api.get(f"{_PREDICTIONS}/{{project_id}}/{{expt_id}}")
    @api.get(f"{_PREDICTIONS}/{{project_id}}/{{expt_id}}/{{run_id}}")
    def get_predictions(
        participant_id: str,
        collab_id: str,
        project_id: str | None = None,
        expt_id: str | None = None,
        run_id: str | None = None,
    ) -> Response:
        ids = {
            "participant_id": participant_id,
            "collab_id": collab_id,
            "project_id": project_id,
            "expt_id": expt_id,
            "run_id": run_id,
        }
        with database.read() as records:
            found = show(records, records.select(PREDICTION, **ids))
        if not found:
            raise NotFound("Predictions do not exist for specified keyword filters: POST predictions first.")
        return success("predictions.get", ids, found)

    @api.post(_PREDICTIONS)
    @api.post(f"{_PREDICTIONS}/{{project_id}}")
    @api.post(f"{_PREDICTIONS}/{{project_id}}/{{expt_id}}")
    @api.post(f"{_PREDICTIONS}/{{project_id}}/{{expt_id}}/{{run_id}}")
    async def post_predictions(
        participant_id: str,
        collab_id: str,
        body: schemas.PredictionOrder,
        project_id: str | None = None,
        expt_id: str | None = None,
        run_id: str | None = None,
    ) -> Response:
        if project_id is not None and body.tags.keys() != {project_id}:
            raise Invalid(f"tags: give the data of project {project_id!r}, which the URL names, and of no other.")
        ids = {
            "participant_id": participant_id,
            "collab_id": collab_id,
            "project_id": project_id,
            "expt_id": expt_id,
            "run_id": run_id,
        }
        data = await queue.run("predict", ids, body.model_dump())
        return success("predictions.post", ids, data, message=queue.notice)

    return api


def validate(task: Task) -> list[Body]:
    """Evaluate the trained combinations in the scope at one participant or all; stores each combination's results."""
    project, order = task.project, schemas.Order.model_validate(task.job.order)
    expt_id, run_id, participant_id = task.ids("expt_id", "run_id", "participant_id")
    with task.database.read() as records:
        action = assemble.action(records, project)
        found = assemble.combinations(records, project, expt_id, run_id)
        assemble.trained(records, found)
        if participant_id is not None:
            records.get(REGISTRATION, {**project, "participant_id": participant_id})
        parties = assemble.parties(records, project)
        if order.auto_align:
            parties = assemble.aligned(parties, project)
        combinations = assemble.trained(records, found, parties if order.auto_align else None)
    participants = [participant_id] if participant_id else [party.node.participant_id for party in parties]

    def one(step: Step) -> list[Body]:
        job = InferJob(
            **vars(step.combination),
            action=action,
            parties=parties,
            auto_align=order.auto_align,
            meta="evaluate",
            participants=participants,
        )
        results = task.engine.infer(job).results
        with step.finishing() as records:
            stored = [
                records.put(VALIDATION, {**step.combination.key, "participant_id": name}, {"evaluate": result})
                for name, result in results.items()
            ]
            if task.tracker:
                model = records.get(MODEL, step.combination.key).body["global"]
                task.tracker.validated(step.combination.key, results, model.get("best_round", 0), records)
            return show(records, stored)

    return [shown for found in task.every(combinations, one) for shown in found]


def predict(task: Task) -> list[Body]:
    """Predict a participant's new data in each project with its trained combinations.

    The new tags, their alignment and the results of a project are stored together, or none of them.
    """
    order = schemas.PredictionOrder.model_validate(task.job.order)
    members = [
        {
            "collab_id": task.job.ids["collab_id"],
            "project_id": project_id,
            "participant_id": task.job.ids["participant_id"],
        }
        for project_id in order.tags
    ]
    with task.database.read() as records:
        for member in members:
            records.get(REGISTRATION, member)
            assemble.trained(records, _combinations(records, task, member))
    data: list[Body] = []
    for member in members:
        data += _predict(task, member, order)
    return data


def _predict(task: Task, member: Key, order: schemas.PredictionOrder) -> list[Body]:
    project, participant = _project(member), member["participant_id"]
    tags = order.tags[member["project_id"]]
    with task.database.read() as records:
        action = assemble.action(records, project)
        parties = assemble.parties(records, project)
        if order.auto_align:
            parties = assemble.aligned(parties, project)
        found = _combinations(records, task, member)
        combinations = assemble.trained(records, found, parties if order.auto_align else None)
    requester = next(party for party in parties if party.node.participant_id == participant)
    requester.tags.predict = tags
    if order.auto_align:
        job = AlignJob(
            collab_id=project["collab_id"],
            project_id=project["project_id"],
            action=action,
            parties=parties,
            auto_fix=False,
        )
        requester.alignment = task.engine.realign(job, participant)

    def one(step: Step) -> dict[str, Body]:
        job = InferJob(
            **vars(step.combination),
            action=action,
            parties=parties,
            auto_align=order.auto_align,
            meta="predict",
            participants=[participant],
        )
        return task.engine.infer(job).results

    results = task.every(combinations, one)
    with task.writing() as records:
        tagged = records.get(TAG, member)
        records.change(tagged, {**tagged.body, "predict": tags})
        if requester.alignment:
            records.put(ALIGNMENT, member, requester.alignment.model_dump())
        stored = [
            records.put(PREDICTION, {**combination.key, "participant_id": name}, {"predict": result})
            for combination, found in zip(combinations, results, strict=True)
            for name, result in found.items()
        ]
        return show(records, stored)


def _combinations(records: Records, task: Task, member: Key) -> list[assemble.Combination]:
    return assemble.combinations(records, _project(member), *task.ids("expt_id", "run_id"))


def _project(member: Key) -> Key:
    return {"collab_id": member["collab_id"], "project_id": member["project_id"]}
