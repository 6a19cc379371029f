"""Phase 1: the records that describe who works with whom, on what, and how."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.responses import Response

from synergos.errors import Invalid
from synergos.orchestrator import schemas
from synergos.orchestrator.database import Body, Database, Record, Records
from synergos.orchestrator.kinds import (
    ALIGNMENT,
    COLLABORATION,
    EXPERIMENT,
    PARTICIPANT,
    PROJECT,
    REGISTRATION,
    RUN,
    TAG,
    Kind,
)
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.queue import JobQueue
from synergos.orchestrator.render import show, show_raw
from synergos.rest import describe, success

_COLLABORATIONS = "/collaborations"
_COLLABORATION = "/collaborations/{collab_id}"
_PROJECTS = f"{_COLLABORATION}/projects"
_PROJECT = f"{_PROJECTS}/{{project_id}}"
_EXPERIMENTS = f"{_PROJECT}/experiments"
_EXPERIMENT = f"{_EXPERIMENTS}/{{expt_id}}"
_RUNS = f"{_EXPERIMENT}/runs"
_RUN = f"{_RUNS}/{{run_id}}"
_PARTICIPANTS = "/participants"
_PARTICIPANT = "/participants/{participant_id}"
# The same registration, reached from the project and from the participant.
_REGISTRATION = f"{_PROJECT}/participants/{{participant_id}}/registration"
_MEMBERSHIP = f"{_PARTICIPANT}/collaborations/{{collab_id}}/projects/{{project_id}}/registration"
# A registration is deleted and made again whenever a client registers anew.
_WORKED_ON = (COLLABORATION, PROJECT, EXPERIMENT, RUN, PARTICIPANT)


def create_router(database: Database, queue: JobQueue) -> APIRouter:
    """Return the routes of phase 1 on the records of `database`.

    What is deleted takes along the jobs that worked on nothing else: those in `queue` are cancelled.
    """
    api = APIRouter(prefix="/ttp/connect")

    def list_all(kind: Kind, params: Body, **ids: str) -> Response:
        with database.read() as records:
            return success(f"{kind.plural}.get", params, show(records, records.select(kind, **ids)))

    def create(kind: Kind, body: schemas.Changes, params: Body, method: str = "", **key: str) -> Response:
        with database.write() as records:
            record = _store(records, kind, key, body)
            shown = show_raw(records, record) if kind == EXPERIMENT else show(records, [record])[0]
        return success(method or f"{kind.plural}.post", params, shown, 201)

    def get(kind: Kind, **key: str) -> Response:
        with database.read() as records:
            return success(f"{kind.singular}.get", key, show(records, [records.get(kind, key)])[0])

    def update(kind: Kind, body: schemas.Changes, **key: str) -> Response:
        with database.write() as records:
            record = _change(records, records.get(kind, key), body)
            return success(f"{kind.singular}.put", key, show(records, [record])[0])

    def delete(kind: Kind, **key: str) -> Response:
        with database.write() as records:
            record = records.get(kind, key)
            shown = show(records, [record])[0]
            records.delete(record)
            if kind in _WORKED_ON:
                Ledger(records).forget_within(key)
        if kind in _WORKED_ON:
            queue.cancel_within(key, f"{kind.label(key)} was deleted.")
        return success(f"{kind.singular}.delete", key, shown)

    @api.get(_COLLABORATIONS)
    def get_collaborations() -> Response:
        return list_all(COLLABORATION, {})

    @api.post(_COLLABORATIONS, status_code=201)
    def post_collaboration(body: schemas.Collaboration) -> Response:
        return create(COLLABORATION, body, {}, collab_id=body.collab_id)

    @api.get(_COLLABORATION)
    def get_collaboration(collab_id: str) -> Response:
        return get(COLLABORATION, collab_id=collab_id)

    @api.put(_COLLABORATION)
    def put_collaboration(collab_id: str, body: schemas.CollaborationChanges) -> Response:
        return update(COLLABORATION, body, collab_id=collab_id)

    @api.delete(_COLLABORATION)
    def delete_collaboration(collab_id: str) -> Response:
        return delete(COLLABORATION, collab_id=collab_id)

    @api.get(_PROJECTS)
    def get_projects(collab_id: str) -> Response:
        return list_all(PROJECT, {"collab_id": collab_id}, collab_id=collab_id)

    @api.post(_PROJECTS, status_code=201)
    def post_project(collab_id: str, body: schemas.Project) -> Response:
        return create(PROJECT, body, {"collab_id": collab_id}, collab_id=collab_id, project_id=body.project_id)

    @api.get(_PROJECT)
    def get_project(collab_id: str, project_id: str) -> Response:
        return get(PROJECT, collab_id=collab_id, project_id=project_id)

    @api.put(_PROJECT)
    def put_project(collab_id: str, project_id: str, body: schemas.ProjectChanges) -> Response:
        return update(PROJECT, body, collab_id=collab_id, project_id=project_id)

    @api.delete(_PROJECT)
    def delete_project(collab_id: str, project_id: str) -> Response:
        return delete(PROJECT, collab_id=collab_id, project_id=project_id)

    @api.get(_EXPERIMENTS)
    def get_experiments(collab_id: str, project_id: str) -> Response:
        above = {"collab_id": collab_id, "project_id": project_id}
        return list_all(EXPERIMENT, above, **above)

    @api.post(_EXPERIMENTS, status_code=201)
    def post_experiment(collab_id: str, project_id: str, body: schemas.Experiment) -> Response:
        above = {"collab_id": collab_id, "project_id": project_id}
        return create(EXPERIMENT, body, above, **above, expt_id=body.expt_id)

    @api.get(_EXPERIMENT)
    def get_experiment(collab_id: str, project_id: str, expt_id: str) -> Response:
        return get(EXPERIMENT, collab_id=collab_id, project_id=project_id, expt_id=expt_id)

    @api.put(_EXPERIMENT)
    def put_experiment(collab_id: str, project_id: str, expt_id: str, body: schemas.ExperimentChanges) -> Response:
        return update(EXPERIMENT, body, collab_id=collab_id, project_id=project_id, expt_id=expt_id)

    @api.delete(_EXPERIMENT)
    def delete_experiment(collab_id: str, project_id: str, expt_id: str) -> Response:
        return delete(EXPERIMENT, collab_id=collab_id, project_id=project_id, expt_id=expt_id)

    @api.get(_RUNS)
    def get_runs(collab_id: str, project_id: str, expt_id: str) -> Response:
        above = {"collab_id": collab_id, "project_id": project_id, "expt_id": expt_id}
        return list_all(RUN, above, **above)

    @api.post(_RUNS, status_code=201)
    def post_run(collab_id: str, project_id: str, expt_id: str, body: schemas.Run) -> Response:
        above = {"collab_id": collab_id, "project_id": project_id, "expt_id": expt_id}
        return create(RUN, body, above, **above, run_id=body.run_id)

    @api.get(_RUN)
    def get_run(collab_id: str, project_id: str, expt_id: str, run_id: str) -> Response:
        return get(RUN, collab_id=collab_id, project_id=project_id, expt_id=expt_id, run_id=run_id)

    @api.put(_RUN)
    def put_run(collab_id: str, project_id: str, expt_id: str, run_id: str, body: schemas.RunChanges) -> Response:
        return update(RUN, body, collab_id=collab_id, project_id=project_id, expt_id=expt_id, run_id=run_id)

    @api.delete(_RUN)
    def delete_run(collab_id: str, project_id: str, expt_id: str, run_id: str) -> Response:
        return delete(RUN, collab_id=collab_id, project_id=project_id, expt_id=expt_id, run_id=run_id)

    @api.get(_PARTICIPANTS)
    def get_participants() -> Response:
        return list_all(PARTICIPANT, {})

    @api.post(_PARTICIPANTS, status_code=201)
    def post_participant(body: schemas.Participant) -> Response:
        return create(PARTICIPANT, body, {}, participant_id=body.id)

    @api.get(_PARTICIPANT)
    def get_participant(participant_id: str) -> Response:
        return get(PARTICIPANT, participant_id=participant_id)

    @api.put(_PARTICIPANT)
    def put_participant(participant_id: str, body: schemas.ParticipantChanges) -> Response:
        return update(PARTICIPANT, body, participant_id=participant_id)

    @api.delete(_PARTICIPANT)
    def delete_participant(participant_id: str) -> Response:
        return delete(PARTICIPANT, participant_id=participant_id)

    @api.get(f"{_COLLABORATION}/registrations")
    def get_registrations_of_collaboration(collab_id: str) -> Response:
        return list_all(REGISTRATION, {}, collab_id=collab_id)

    @api.get(f"{_PROJECT}/registrations")
    def get_registrations_of_project(collab_id: str, project_id: str) -> Response:
        return list_all(REGISTRATION, {}, collab_id=collab_id, project_id=project_id)

    @api.get(f"{_PARTICIPANT}/registrations")
    def get_registrations_of_participant(participant_id: str) -> Response:
        return list_all(REGISTRATION, {}, participant_id=participant_id)

    @api.get(f"{_COLLABORATION}/participants/{{participant_id}}/registrations")
    @api.get(f"{_PARTICIPANT}/collaborations/{{collab_id}}/registrations")
    def get_registrations_of_member(collab_id: str, participant_id: str) -> Response:
        return list_all(REGISTRATION, {}, collab_id=collab_id, participant_id=participant_id)

    @api.get(_REGISTRATION)
    @api.get(_MEMBERSHIP)
    def get_registration(collab_id: str, project_id: str, participant_id: str) -> Response:
        return get(REGISTRATION, collab_id=collab_id, project_id=project_id, participant_id=participant_id)

    @api.post(_REGISTRATION, status_code=201)
    @api.post(_MEMBERSHIP, status_code=201)
    def post_registration(collab_id: str, project_id: str, participant_id: str, body: schemas.Registration) -> Response:
        key = {"collab_id": collab_id, "project_id": project_id, "participant_id": participant_id}
        return create(REGISTRATION, body, key, "registration.post", **key)

    @api.put(_REGISTRATION)
    @api.put(_MEMBERSHIP)
    def put_registration(
        collab_id: str, project_id: str, participant_id: str, body: schemas.RegistrationChanges
    ) -> Response:
        return update(REGISTRATION, body, collab_id=collab_id, project_id=project_id, participant_id=participant_id)

    @api.delete(_REGISTRATION)
    @api.delete(_MEMBERSHIP)
    def delete_registration(collab_id: str, project_id: str, participant_id: str) -> Response:
        return delete(REGISTRATION, collab_id=collab_id, project_id=project_id, participant_id=participant_id)

    @api.get(f"{_REGISTRATION}/tags")
    @api.get(f"{_MEMBERSHIP}/tags")
    def get_tags(collab_id: str, project_id: str, participant_id: str) -> Response:
        return get(TAG, collab_id=collab_id, project_id=project_id, participant_id=participant_id)

    @api.post(f"{_REGISTRATION}/tags", status_code=201)
    @api.post(f"{_MEMBERSHIP}/tags", status_code=201)
    def post_tags(collab_id: str, project_id: str, participant_id: str, body: schemas.Tag) -> Response:
        key = {"collab_id": collab_id, "project_id": project_id, "participant_id": participant_id}
        return create(TAG, body, key, "tag.post", **key)

    @api.put(f"{_REGISTRATION}/tags")
    @api.put(f"{_MEMBERSHIP}/tags")
    def put_tags(collab_id: str, project_id: str, participant_id: str, body: schemas.TagChanges) -> Response:
        return update(TAG, body, collab_id=collab_id, project_id=project_id, participant_id=participant_id)

    @api.delete(f"{_REGISTRATION}/tags")
    @api.delete(f"{_MEMBERSHIP}/tags")
    def delete_tags(collab_id: str, project_id: str, participant_id: str) -> Response:
        return delete(TAG, collab_id=collab_id, project_id=project_id, participant_id=participant_id)

    return api


def _store(records: Records, kind: Kind, key: dict[str, str], body: schemas.Changes) -> Record:
    """Create a record; one that exists keeps the fields that were not sent, as in the original."""
    old = records.find(kind, key)
    before = old.body if old else {}
    # A registration comes with all its nodes: those of an earlier one would only linger.
    after = body.body() if kind == REGISTRATION else {**before, **body.body()}
    record = records.put(kind, key, after)
    if old:
        _forget_alignment(records, record, before)
    return record


def _change(records: Records, record: Record, body: schemas.Changes) -> Record:
    changes = body.body()
    after = _fit_nodes(record.body, changes) if record.kind == REGISTRATION else {**record.body, **changes}
    changed = records.change(record, after)
    _forget_alignment(records, changed, record.body)
    return changed


def _fit_nodes(before: Body, changes: Body) -> Body:
    """Merge changes into a registration: a smaller n_count drops the nodes beyond it, and the result must be whole."""
    count: int = {**before, **changes}["n_count"]
    kept = {
        name: value
        for name, value in before.items()
        if not name.startswith("node_") or int(name.removeprefix("node_")) < count
    }
    try:
        return schemas.Registration.model_validate({**kept, **changes}).body()
    except ValidationError as error:
        raise Invalid(f"The registration would not be usable: {describe(error.errors())}.") from error


def _forget_alignment(records: Records, record: Record, before: Body) -> None:
    """Drop the alignment of a participant whose training or evaluation data changed: it describes other data."""
    if record.kind == TAG and any(
        (record.body.get(meta) or []) != (before.get(meta) or []) for meta in ("train", "evaluate")
    ):
        alignment = records.find(ALIGNMENT, record.key)
        if alignment:
            records.delete(alignment)
