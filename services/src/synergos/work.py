"""What a message of the queue asks a grid for, and what the grid's answer holds: the same for who writes and reads it.

`parameters` and `outputs` of `synergos.queue` messages are these models as JSON.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from synergos.jobs import Action, Alignment, RoundProgress

Layers = list[dict[str, Any]]
# Status of a failure that another grid may not meet: workers of this one cannot be reached.
AWAY = 503
# What is a path in the description of a model.
FILES = ("path", "loss_history", "checkpoints")


class Source(BaseModel):
    """Where the files of a run are, and what opens them.

    Attributes:
        url: of the run's artefacts; empty where only the token matters.
    """

    url: str = ""
    token: str = Field(repr=False)


class Align(BaseModel):
    """Agree on names, classes and scaling.

    Attributes:
        experiments: experiment → layers.
        participant_id: who changed its data to predict, if only that is to be placed in what was agreed on.
    """

    action: Action
    experiments: dict[str, Layers] = Field(default_factory=dict)
    auto_align: bool = True
    auto_fix: bool = True
    participant_id: str | None = None


class Aligned(BaseModel):
    """Participant → its place in the layout, and the experiments that changed."""

    spacers: dict[str, Alignment] = Field(default_factory=dict)
    experiments: dict[str, Layers] = Field(default_factory=dict)


class Train(BaseModel):
    """Train one combination; `artefacts` has the token with which its files are to be fetched."""

    action: Action
    experiment: Layers
    run: dict[str, Any]
    auto_align: bool = True
    artefacts: Source


class Trained(BaseModel):
    """Files of a model, with paths below the run's folder, and where they are to be fetched.

    Attributes:
        rounds: the newest; they were told one by one, but such messages may be lost.
    """

    paths: dict[str, dict[str, Any]]
    url: str
    rounds: list[RoundProgress] = Field(default_factory=list)


class Infer(BaseModel):
    """Run the model of a combination, which is fetched from `artefacts`, on data of the participants."""

    action: Action
    experiment: Layers
    run: dict[str, Any]
    auto_align: bool = True
    artefacts: Source
    participants: list[str]
    metas: list[Literal["evaluate", "predict"]]


class Inferred(BaseModel):
    """Participant → meta → {statistics, res_path}."""

    results: dict[str, dict[str, dict[str, Any]]]
