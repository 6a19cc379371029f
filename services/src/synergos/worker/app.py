"""The worker's REST interface, prefix /worker: what the orchestrator asks of a participant's node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI
from pydantic import BaseModel, Field, FiniteFloat
from starlette.responses import Response

from synergos import rest
from synergos.federation.sessions import Sessions
from synergos.jobs import Action, Layout, Meta, Spacers, Tags
from synergos.worker.projects import Projects, Record

Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Poll(BaseModel):
    """What to prepare."""

    action: Action
    tags: Tags


class Question(BaseModel):
    """Which poll the caller waits for."""

    tags: Tags


class Agreed(Layout):
    """What the participants agreed on, as it comes from outside."""

    scaling: dict[str, tuple[FiniteFloat, Deviation]] = Field(default_factory=dict)
    shape: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, max_length=3)


class Alignment(BaseModel):
    """A participant's place in the shared layout: spacers per meta (kept for the record), and the layout itself."""

    tags: Tags
    alignments: dict[Meta, Spacers] | None = None
    layout: Agreed | None = None


class Initialisation(Alignment):
    """The start of a combination; host, port and verbosity of the original are accepted and without effect."""

    id: str
    action: Action
    token: str | None = None


class Inference(BaseModel):
    """Outputs of the model for every row of a set."""

    y_pred: list[Any]
    y_score: list[Any]


class Inferences(BaseModel):
    """Outputs of the model per set."""

    inferences: dict[Meta, Inference]


def create_app(
    data: Path,
    outputs: Path,
    sessions: Sessions,
    minimum_rows: int = 5,
    on_first_poll: Callable[[], None] | None = None,
) -> FastAPI:
    """Return the worker's REST application.

    Args:
        data: folder with the participant's data sets, only read.
        outputs: folder for everything that is written.
        sessions: opened and dropped here, used by the data port.
        minimum_rows: what fewer rows share is not told.
        on_first_poll: called once, in a thread, when the first data is asked for.
    """
    app = rest.create_api("Synergos worker")
    projects = Projects(data, outputs, sessions, minimum_rows, on_first_poll)

    def described(record: Record, **fields: Any) -> dict[str, Any]:
        return {"doc_id": "1", "kind": "Metadata", "key": record.key, **fields}

    def state(record: Record, is_live: bool) -> dict[str, Any]:
        live = projects.live((record.key["collab_id"], record.key["project_id"]))
        return described(record, is_live=is_live, in_progress=live, connections=record.connections)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "jobs": projects.jobs, "sessions": len(sessions.keys())}

    poll_path = "/worker/poll/{collab_id}/{project_id}"

    @app.post(poll_path)
    def poll(collab_id: str, project_id: str, body: Poll) -> Response:
        queued = projects.poll(collab_id, project_id, body.action, body.tags)
        params = {"collab_id": collab_id, "project_id": project_id}
        return rest.success("poll.post", params, {"jobs": projects.jobs}, 202 if queued else 201)

    @app.get(poll_path)
    def polled(collab_id: str, project_id: str, body: Annotated[Question | None, Body()] = None) -> Response:
        ids = collab_id, project_id
        record = projects.answer(*ids, body.tags) if body else projects.polled(*ids)
        params = {"collab_id": collab_id, "project_id": project_id}
        return rest.success("poll.get", params, described(record, **record.told()))

    @app.post("/worker/align/{collab_id}/{project_id}")
    def align(collab_id: str, project_id: str, body: Alignment) -> Response:
        record = projects.align(collab_id, project_id, body.tags, body.alignments or {}, body.layout or Layout())
        params = {"collab_id": collab_id, "project_id": project_id}
        stored = {meta: each.model_dump() for meta, each in record.alignments.items()}
        return rest.success("align.post", params, described(record, alignments=stored))

    combination = "{collab_id}/{project_id}/{expt_id}/{run_id}"

    def params(key: tuple[str, str, str, str]) -> dict[str, str]:
        return dict(zip(("collab_id", "project_id", "expt_id", "run_id"), key, strict=True))

    @app.post(f"/worker/initialise/{combination}")
    def initialise(collab_id: str, project_id: str, expt_id: str, run_id: str, body: Initialisation) -> Response:
        key = (collab_id, project_id, expt_id, run_id)
        record, live = projects.initialise(
            key, body.id, body.action, body.tags, body.alignments, body.layout, body.token
        )
        return rest.success("initialise.post", params(key), state(record, is_live=True), 200 if live else 201)

    @app.post(f"/worker/predict/{combination}")
    def predict(collab_id: str, project_id: str, expt_id: str, run_id: str, body: Inferences) -> Response:
        key = (collab_id, project_id, expt_id, run_id)
        record = projects.predict(key, {meta: (given.y_pred, given.y_score) for meta, given in body.inferences.items()})
        return rest.success("predict.post", params(key), described(record, results=record.results))

    @app.post(f"/worker/terminate/{combination}")
    def terminate(collab_id: str, project_id: str, expt_id: str, run_id: str) -> Response:
        key = (collab_id, project_id, expt_id, run_id)
        return rest.success("terminate.post", params(key), state(projects.terminate(key), is_live=False))

    return app
