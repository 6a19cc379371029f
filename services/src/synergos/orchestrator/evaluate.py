"""Phase 3: measure trained models on the participants' data (validations, predictions)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from synergos.errors import Invalid, NotFound
from synergos.jobs import AlignJob, Engine, InferJob
from synergos.orchestrator import assemble, schemas
from synergos.orchestrator.database import Body, Database
from synergos.orchestrator.kinds import ALIGNMENT, PREDICTION, REGISTRATION, TAG, VALIDATION, Key
from synergos.orchestrator.queue import JobQueue
from synergos.orchestrator.render import show
from synergos.rest import success

_VALIDATIONS = "/collaborations/{collab_id}/projects/{project_id}/validations"
_PREDICTIONS = "/participants/{participant_id}/collaborations/{collab_id}/predictions"


def create_router(database: Database, engine: Engine, queue: JobQueue) -> APIRouter:
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
        project = {"collab_id": collab_id, "project_id": project_id}
        data = await queue.run(lambda: validate(database, engine, project, expt_id, run_id, participant_id, body))
        params = {**project, "expt_id": expt_id, "run_id": run_id, "participant_id": participant_id}
        return success("validations.post", params, data)

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
        members = [{"collab_id": collab_id, "project_id": name, "participant_id": participant_id} for name in body.tags]
        data = await queue.run(lambda: predict(database, engine, members, expt_id, run_id, body))
        params = {
            "participant_id": participant_id,
            "collab_id": collab_id,
            "project_id": project_id,
            "expt_id": expt_id,
            "run_id": run_id,
        }
        return success("predictions.post", params, data)

    return api


def validate(
    database: Database,
    engine: Engine,
    project: Key,
    expt_id: str | None,
    run_id: str | None,
    participant_id: str | None,
    order: schemas.Order,
) -> list[Body]:
    """Evaluate the trained combinations in the scope at one participant or all; stores each combination's results."""
    with database.read() as records:
        action = assemble.action(records, project)
        combinations = assemble.trained(records, assemble.combinations(records, project, expt_id, run_id))
        if participant_id is not None:
            records.get(REGISTRATION, {**project, "participant_id": participant_id})
        parties = assemble.parties(records, project)
        if order.auto_align:
            parties = assemble.aligned(parties, project)
    participants = [participant_id] if participant_id else [party.node.participant_id for party in parties]
    data: list[Body] = []
    for combination in combinations:
        job = InferJob(
            **vars(combination),
            action=action,
            parties=parties,
            auto_align=order.auto_align,
            meta="evaluate",
            participants=participants,
        )
        results = engine.infer(job).results
        with database.write() as records:
            stored = [
                records.put(VALIDATION, {**combination.key, "participant_id": name}, {"evaluate": result})
                for name, result in results.items()
            ]
            data += show(records, stored)
    return data


def predict(
    database: Database,
    engine: Engine,
    members: list[Key],
    expt_id: str | None,
    run_id: str | None,
    order: schemas.PredictionOrder,
) -> list[Body]:
    """Predict a participant's new data in each project with its trained combinations.

    The new tags, their alignment and the results of a project are stored together, or none of them.
    """
    with database.read() as records:
        for member in members:
            records.get(REGISTRATION, member)
            assemble.trained(records, assemble.combinations(records, _project(member), expt_id, run_id))
    data: list[Body] = []
    for member in members:
        data += _predict(database, engine, member, expt_id, run_id, order)
    return data


def _predict(
    database: Database,
    engine: Engine,
    member: Key,
    expt_id: str | None,
    run_id: str | None,
    order: schemas.PredictionOrder,
) -> list[Body]:
    project, participant = _project(member), member["participant_id"]
    tags = order.tags[member["project_id"]]
    with database.read() as records:
        action = assemble.action(records, project)
        combinations = assemble.trained(records, assemble.combinations(records, project, expt_id, run_id))
        parties = assemble.parties(records, project)
    if order.auto_align:
        parties = assemble.aligned(parties, project)
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
        requester.alignment = engine.realign(job, participant)
    results = [
        engine.infer(
            InferJob(
                **vars(combination),
                action=action,
                parties=parties,
                auto_align=order.auto_align,
                meta="predict",
                participants=[participant],
            )
        ).results
        for combination in combinations
    ]
    with database.write() as records:
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


def _project(member: Key) -> Key:
    return {"collab_id": member["collab_id"], "project_id": member["project_id"]}
