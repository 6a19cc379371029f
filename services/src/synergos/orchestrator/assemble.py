"""Turns records into the jobs that an engine takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from synergos.errors import Invalid, NotFound
from synergos.jobs import Action, Alignment, Node, Party, Tags
from synergos.orchestrator.database import Record, Records
from synergos.orchestrator.kinds import ALIGNMENT, EXPERIMENT, MODEL, PROJECT, REGISTRATION, RUN, TAG, TRIAL, Key

# Every participant's node_0: the one grid of a TTP, and the first of a cluster.
GRID = 0


@dataclass(frozen=True)
class Combination:
    """An experiment and one of its runs, ready for a `RunJob`."""

    collab_id: str
    project_id: str
    expt_id: str
    run_id: str
    model: list[dict[str, Any]]
    parameters: dict[str, Any]

    @property
    def key(self) -> Key:
        """Ids of the run."""
        return {name: getattr(self, name) for name in RUN.key}


def action(records: Records, project: Key) -> Action:
    """Return what a project does, or raise an error that says how to set it."""
    found: Action | None = records.get(PROJECT, project).body.get("action")
    if found is None:
        raise Invalid(f"{PROJECT.label(project)} has no action: PUT {{'action': 'regress'}} or 'classify' to it.")
    return found


def parties(records: Records, project: Key) -> list[Party]:
    """Return the registered participants with their tags and, where there is one, their alignment.

    Raises:
        Invalid: nobody is registered, or somebody has no tags.
    """
    registrations = records.select(REGISTRATION, collab_id=project["collab_id"], project_id=project["project_id"])
    if not registrations:
        raise Invalid(f"{PROJECT.label(project)} has no participants: register and tag them first.")
    return [_party(records, registration) for registration in registrations]


def _party(records: Records, registration: Record) -> Party:
    tags = records.find(TAG, registration.key)
    if tags is None:
        raise Invalid(f"{REGISTRATION.label(registration.key)} has no tags: POST them first.")
    alignment = records.find(ALIGNMENT, registration.key)
    return Party(
        node=_node(registration, GRID),
        tags=Tags.model_validate(tags.body),
        alignment=Alignment.model_validate(alignment.body) if alignment else None,
    )


def _node(registration: Record, index: int) -> Node:
    node = registration.body[f"node_{index}"]
    return Node(
        participant_id=registration.key["participant_id"],
        host=node["host"],
        command_port=node["f_port"],
        data_port=node["port"],
        log_msgs=node["log_msgs"],
        verbose=node["verbose"],
    )


def grids(records: Records, project: Key, found: list[Party]) -> list[list[Party]]:
    """Return the parties as each grid sees them: those of grid i have their i-th worker, as far as all have one."""
    registrations = {
        registration.key["participant_id"]: registration
        for registration in records.select(
            REGISTRATION, collab_id=project["collab_id"], project_id=project["project_id"]
        )
    }
    members = [registrations[party.node.participant_id] for party in found]
    return [
        [party.model_copy(update={"node": _node(member, index)}) for party, member in zip(found, members, strict=True)]
        for index in range(min(member.body["n_count"] for member in members))
    ]


def aligned(found: list[Party], project: Key) -> list[Party]:
    """Return the parties if all of them are aligned, or raise an error that names those that are not."""
    missing = [party.node.participant_id for party in found if party.alignment is None]
    if missing:
        raise Invalid(
            f"{PROJECT.label(project)} is not aligned for {', '.join(missing)}: POST its alignments first "
            "(Driver: alignments.create)."
        )
    return found


def combinations(records: Records, project: Key, expt_id: str | None, run_id: str | None) -> list[Combination]:
    """Return the combinations in a scope, oldest experiment and run first; the trials of searches only if named.

    Raises:
        NotFound: a named record does not exist, or the scope holds no run.
    """
    records.get(PROJECT, project)
    if expt_id is not None:
        records.get(EXPERIMENT, {**project, "expt_id": expt_id})
        if run_id is not None:
            records.get(RUN, {**project, "expt_id": expt_id, "run_id": run_id})
    found = [
        Combination(
            **run.key,
            model=experiment.body["model"],
            parameters={name: value for name, value in run.body.items() if value is not None},
        )
        for experiment in records.select(EXPERIMENT, **project, expt_id=expt_id)
        for run in records.select(RUN, **experiment.key, run_id=run_id)
        if run_id is not None or not run.key["run_id"].startswith(TRIAL)
    ]
    if not found:
        raise NotFound(f"{PROJECT.label(project)} has no run here: create an experiment and a run first.")
    return found


def basis(combination: Combination, found: list[Party]) -> str:
    """Identify what a model was trained for: its layers, and the names and scaling of the parties' layouts."""
    layouts = [party.alignment.layout.model_dump(exclude={"counts"}) for party in found if party.alignment]
    content = json.dumps([combination.model, layouts[:1]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def trained(records: Records, found: list[Combination], within: list[Party] | None = None) -> list[Combination]:
    """Return the combinations that have a trained model.

    Args:
        within: aligned parties that the models are to be used with; None to take their word for it.

    Raises:
        NotFound: none has a model.
        Invalid: a model was trained before its experiment, or the alignment of `within`, became another.
    """
    models = [(combination, records.find(MODEL, combination.key)) for combination in found]
    result = [combination for combination, model in models if model]
    for combination, model in models:
        if model and within is not None and model.body["global"].get("basis") not in (None, basis(combination, within)):
            raise Invalid(
                f"The model of {combination.expt_id}/{combination.run_id} was trained for another alignment of the "
                "project, or another model of the experiment: POST models again."
            )
    if not result:
        names = ", ".join(f"{combination.expt_id}/{combination.run_id}" for combination in found)
        raise NotFound(f"No model has been trained for {names}: POST models first.")
    return result
