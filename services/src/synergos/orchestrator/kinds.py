"""The kinds of records, what identifies them, and how they hang together."""

from __future__ import annotations

from dataclasses import dataclass

Key = dict[str, str]

_NOUNS = {
    "collab_id": "collaboration",
    "project_id": "project",
    "expt_id": "experiment",
    "run_id": "run",
    "participant_id": "participant",
}


@dataclass(frozen=True)
class Kind:
    """One kind of record.

    Attributes:
        name: as shown in answers (`kind`), and the name of its table.
        key: ids that identify a record.
        parents: kinds without whose record one of this kind cannot exist; deleting a parent deletes it.
    """

    name: str
    key: tuple[str, ...]
    parents: tuple[Kind, ...] = ()

    @property
    def singular(self) -> str:
        """Name of one record's resource in `method`."""
        return self.name.lower()

    @property
    def plural(self) -> str:
        """Name of the collection in `method`."""
        return f"{self.singular}s"

    def label(self, key: Key) -> str:
        """Name one record in a message."""
        return f"{self.name} ({', '.join(f'{_NOUNS[step]} {key[step]!r}' for step in self.key)})"


COLLABORATION = Kind("Collaboration", ("collab_id",))
PROJECT = Kind("Project", ("collab_id", "project_id"), (COLLABORATION,))
EXPERIMENT = Kind("Experiment", (*PROJECT.key, "expt_id"), (PROJECT,))
RUN = Kind("Run", (*EXPERIMENT.key, "run_id"), (EXPERIMENT,))
PARTICIPANT = Kind("Participant", ("participant_id",))
REGISTRATION = Kind("Registration", (*PROJECT.key, "participant_id"), (PROJECT, PARTICIPANT))
TAG = Kind("Tag", REGISTRATION.key, (REGISTRATION,))
ALIGNMENT = Kind("Alignment", REGISTRATION.key, (TAG,))
MODEL = Kind("Model", RUN.key, (RUN,))
VALIDATION = Kind("Validation", (*RUN.key, "participant_id"), (RUN, PARTICIPANT))
PREDICTION = Kind("Prediction", (*RUN.key, "participant_id"), (RUN, PARTICIPANT))

KINDS = (
    COLLABORATION,
    PROJECT,
    EXPERIMENT,
    RUN,
    PARTICIPANT,
    REGISTRATION,
    TAG,
    ALIGNMENT,
    MODEL,
    VALIDATION,
    PREDICTION,
)

# How the runs are named that a search makes.
TRIAL = "optim_run_"

# Ids that may limit what a job works on.
SCOPE = (*RUN.key, "participant_id")

# What is shown below a record. Every key here contains the whole key of the record that it is shown under.
RELATIONS: dict[Kind, tuple[Kind, ...]] = {
    COLLABORATION: (PROJECT, EXPERIMENT, RUN, REGISTRATION, TAG, MODEL, VALIDATION, PREDICTION),
    PROJECT: (EXPERIMENT, RUN, REGISTRATION, TAG, MODEL, VALIDATION, PREDICTION),
    EXPERIMENT: (RUN, MODEL, VALIDATION, PREDICTION),
    RUN: (MODEL, VALIDATION, PREDICTION),
    PARTICIPANT: (REGISTRATION, TAG),
    REGISTRATION: (TAG,),
}
