"""The phases of a federated cycle, each a few calls of the Driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synergos import Driver, DriverError
from synergos.demo import figures, tracking
from synergos.demo.settings import Settings
from synergos.driver import Task
from synergos.errors import SynergosError
from synergos.jobs import METAS, Meta

Result = dict[str, Any]


class PhaseFailed(SynergosError):
    """A request of the demo that was refused, or whose job failed; the message repeats the answer."""


def expect(reply: Mapping[str, Any], what: str) -> Any:
    """Return the data of a successful reply, else raise `PhaseFailed`."""
    if reply.get("status") in (200, 201):
        return reply["data"]
    raise PhaseFailed(f"{what} failed with status {reply.get('status', 'unknown')}: {reply.get('message', reply)}")


def finish(task: Task, reply: Mapping[str, Any], what: str, *ids: str) -> list[dict[str, Any]]:
    """Return what a job brought: a TTP's reply has it, a Director's comes while the job waits.

    Args:
        task: what the job was ordered from.
        ids: of what was ordered, as `task.read` takes them.
    """
    found: list[dict[str, Any]] = expect(reply, what)
    try:
        return found or expect(task.wait(*ids, interval=0.5), what)
    except DriverError as error:
        raise PhaseFailed(f"{what} failed: {error.message}") from error


def work(settings: Settings, driver: Driver, process: str, newest: int = 1) -> list[dict[str, Any]]:
    """Return which grid of a cluster did what of the newest jobs of a process: `job`, `what`, `grid` and `ttp`."""
    named = {"collab_id": settings.collab_id, "project_id": settings.project_id}
    jobs = expect(driver.jobs.read_all(process=process, **named), "Listing the jobs")
    return [
        {"job": process, "what": part["part"], "grid": part.get("grid"), "ttp": part.get("ttp")}
        for job in jobs[-newest:]
        for part in job["progress"].get("parts", [])
    ]


def register(settings: Settings, driver: Driver) -> Result:
    """Register everything from the collaboration to the tags; what exists already is replaced."""
    collab_id, project_id, expt_id, run_id = settings.keys
    # Read first: an unusable example must not leave half a project behind.
    action, model, parameters = settings.action, settings.read("architecture.json"), settings.run_parameters
    expect(driver.collaborations.create(collab_id, **settings.components), "Creating the collaboration")
    expect(
        driver.projects.create(
            collab_id=collab_id,
            project_id=project_id,
            action=action,
            incentives={"tier_1": [], "tier_2": []},
        ),
        "Creating the project",
    )
    expect(
        driver.experiments.create(collab_id=collab_id, project_id=project_id, expt_id=expt_id, model=model),
        "Creating the experiment",
    )
    # A create over an existing run merges fields: parameters of an earlier demo would survive.
    if driver.runs.read(*settings.keys).get("status") == 200:
        expect(driver.runs.delete(*settings.keys), "Deleting the earlier run")
    run = driver.runs.create(collab_id, project_id, expt_id, run_id, **parameters)
    expect(run, "Creating the run")

    # Every registered participant takes part in the alignment, so one that has left the grid would stop it.
    wanted = {participant.participant_id for participant in settings.participants}
    known = driver.registrations.read_all(collab_id=collab_id, project_id=project_id)
    registered = {record["key"]["participant_id"] for record in expect(known, "Listing the registrations")}
    for participant_id in registered - wanted:
        expect(
            driver.registrations.delete(collab_id, project_id, participant_id),
            f"Deleting the registration of {participant_id}, who takes no part",
        )
    for participant in settings.participants:
        name = participant.participant_id
        expect(driver.participants.create(participant_id=name), f"Creating the participant {name}")
        task = driver.registrations
        for node in participant.nodes:
            task.add_node(**node.model_dump())
        expect(task.create(collab_id, project_id, name, role=participant.role), f"Registering {name}")
        tags = {meta: [settings.tag(participant, meta)] for meta in METAS}
        expect(driver.tags.create(collab_id, project_id, name, **tags), f"Declaring the tags of {name}")
    return {"action": action, "participants": sorted(wanted)}


def align(settings: Settings, driver: Driver) -> Result:
    """Let the workers read their data and agree on columns, classes and scaling."""
    task, project = driver.alignments, settings.keys[:2]
    records = finish(task, task.create(*project), "The alignment", *project)
    spacers = {
        record["key"]["participant_id"]: {
            meta: {side: len(record[meta][side]) for side in ("X", "y")} for meta in METAS
        }
        for record in records
    }
    return {"spacers": spacers, "work": work(settings, driver, "align")}


def train(settings: Settings, driver: Driver) -> Result:
    """Train the run."""
    task = driver.models
    (record,) = finish(task, task.create(*settings.keys), "The training", *settings.keys)
    done = work(settings, driver, "train")
    return {"model": record["global"], "losses": losses(settings, driver), "work": done}


def losses(settings: Settings, driver: Driver) -> dict[str, list[Any]]:
    """Return the loss curves of the newest training of the run, one value per round, from its job.

    Returns:
        `round`, from 1; `evaluate`: loss of the round's global model on the evaluate sets (None after the last round,
        which nobody follows); `train`: mean of the losses with which the participants ended the round, and
        `train at <participant>` for each of them (None where it was left out).
    """
    names = ("collab_id", "project_id", "expt_id", "run_id")
    jobs = expect(
        driver.jobs.read_all(process="train", **dict(zip(names, settings.keys, strict=True))), "Listing the jobs"
    )
    if not jobs:
        raise PhaseFailed(f"There is no training of {'/'.join(settings.keys)}: run the phases from register on.")
    rounds = expect(driver.jobs.read(jobs[-1]["job_id"]), "Reading the job")["progress"]["rounds"]
    curves = {
        "round": [each["round"] for each in rounds],
        "evaluate": [each["previous_evaluate_loss"] for each in rounds[1:]] + [None],
        "train": [each["train_loss"] for each in rounds],
    }
    for participant in settings.participants:
        own = [each["participants"].get(participant.participant_id) for each in rounds]
        curves[f"train at {participant.participant_id}"] = [part and part["loss"] for part in own]
    return curves


def validate(settings: Settings, driver: Driver) -> Result:
    """Evaluate the trained model at every participant."""
    task = driver.validations
    records = finish(task, task.create(*settings.keys), "The validation", *settings.keys)
    return {**_inference(settings, records, "evaluate"), "work": work(settings, driver, "validate")}


def predict(settings: Settings, driver: Driver) -> Result:
    """Predict with the trained model at every participant, as each would ask for itself."""
    task = driver.predictions
    replies = {
        participant.participant_id: task.create(
            {settings.project_id: [settings.tag(participant, "predict")]}, participant.participant_id, *settings.keys
        )
        for participant in settings.participants
    }
    records = []
    for name, reply in replies.items():
        records += finish(task, reply, f"The prediction of {name}", name, *settings.keys)
    return {**_inference(settings, records, "predict"), "work": work(settings, driver, "predict", len(replies))}


def search(settings: Settings, driver: Driver) -> Result:
    """Search for better run parameters with trials at all grids of a cluster; `table` has them, the best one marked."""
    task, experiment = driver.optimizations, settings.keys[:3]
    space = settings.read("ranges.json")
    reply = task.create(
        *experiment,
        search_space=space,
        metric=figures.GOALS[settings.action],
        optimize_mode="max",
        trial_concurrency=min(len(participant.nodes) for participant in settings.participants),
        max_trial_num=settings.trials,
        parameters={name: value for name, value in settings.run_parameters.items() if name not in space},
    )
    expect(reply, "The search")
    try:
        found = task.wait(*experiment, interval=0.5)["search"]
    except DriverError as error:
        raise PhaseFailed(f"The search failed: {error.message}") from error
    return {"search": found, "table": figures.trials(found, list(space))}


def links(settings: Settings, driver: Driver) -> Result:
    """Return the pages on which a browser shows the run: its lines (`logs`), MLflow (`mlops`), the queues (`mq`)."""
    found = {name: page for name, page in settings.pages.items() if name == "mq"}
    if "logs" in settings.pages:
        found["logs"] = tracking.log_search(settings, driver.trace_id)
    if "mlops" in settings.pages:
        found["mlops"] = settings.pages["mlops"] + tracking.Tracker(settings).run().page
    return {"links": found}


def _inference(settings: Settings, records: list[dict[str, Any]], meta: Meta) -> Result:
    """Return statistics, files and figures per participant, or raise `PhaseFailed` where a participant has none."""
    found = {record["key"]["participant_id"]: record.get(meta) or {} for record in records}
    missing = [p.participant_id for p in settings.participants if not found.get(p.participant_id, {}).get("statistics")]
    if missing:
        raise PhaseFailed(f"No statistics on the {meta} set came back from {', '.join(missing)}.")
    return {
        "files": {name: entry["res_path"] for name, entry in found.items()},
        "statistics": {name: entry["statistics"] for name, entry in found.items()},
        "figures": {name: figures.of_statistics(settings.action, entry["statistics"]) for name, entry in found.items()},
    }
