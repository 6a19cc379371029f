"""The phases of a federated cycle, each a few calls of the Driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synergos import Driver
from synergos.demo import figures, tracking
from synergos.demo.settings import Settings
from synergos.errors import SynergosError
from synergos.jobs import METAS, Meta

Result = dict[str, Any]


class PhaseFailed(SynergosError):
    """A request of the demo that the TTP refused; the message repeats its answer."""


def expect(reply: Mapping[str, Any], what: str) -> Any:
    """Return the data of a successful reply, else raise `PhaseFailed`."""
    if reply.get("status") in (200, 201):
        return reply["data"]
    raise PhaseFailed(f"{what} failed with status {reply.get('status', 'unknown')}: {reply.get('message', reply)}")


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
        task.add_node(host=participant.host, port=participant.port, f_port=participant.f_port)
        expect(task.create(collab_id, project_id, name, role=participant.role), f"Registering {name}")
        tags = {meta: [settings.tag(participant, meta)] for meta in METAS}
        expect(driver.tags.create(collab_id, project_id, name, **tags), f"Declaring the tags of {name}")
    return {"action": action, "participants": sorted(wanted)}


def align(settings: Settings, driver: Driver) -> Result:
    """Let the workers read their data and agree on columns, classes and scaling."""
    records = expect(driver.alignments.create(settings.collab_id, settings.project_id), "The alignment")
    spacers = {
        record["key"]["participant_id"]: {
            meta: {side: len(record[meta][side]) for side in ("X", "y")} for meta in METAS
        }
        for record in records
    }
    return {"spacers": spacers}


def train(settings: Settings, driver: Driver) -> Result:
    """Train the run."""
    records = expect(driver.models.create(*settings.keys), "The training")
    if not records:
        raise PhaseFailed("The training ended without a model record.")
    return {"model": records[0]["global"], "losses": losses(settings, driver)}


def losses(settings: Settings, driver: Driver) -> dict[str, list[Any]]:
    """Return the loss curves of the newest training of the run, one value per round, from its job at the TTP.

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
        raise PhaseFailed(f"The TTP knows no training of {'/'.join(settings.keys)}: run the phases from register on.")
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
    records = expect(driver.validations.create(*settings.keys), "The validation")
    return _inference(settings, records, "evaluate")


def predict(settings: Settings, driver: Driver) -> Result:
    """Predict with the trained model at every participant, one after the other as each would ask for itself."""
    records = []
    for participant in settings.participants:
        reply = driver.predictions.create(
            {settings.project_id: [settings.tag(participant, "predict")]}, participant.participant_id, *settings.keys
        )
        records += expect(reply, f"The prediction of {participant.participant_id}")
    return _inference(settings, records, "predict")


def links(settings: Settings, driver: Driver) -> Result:
    """Return the pages on which a browser shows the run: `logs`, its lines in Graylog, and `mlops`, its MLflow run."""
    found = {}
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
