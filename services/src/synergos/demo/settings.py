"""What the demo is told: where the TTP is, who takes part, and which example they train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synergos.errors import Invalid
from synergos.jobs import Action


class Participant(BaseModel):
    """One participant and the worker that holds its data.

    Attributes:
        host: name or address of the worker, as the TTP reaches it.
        port: data port.
        f_port: REST port.
        data: the participant's folder below the example's `dataset`.
    """

    model_config = ConfigDict(extra="forbid")

    participant_id: str
    role: Literal["host", "guest", "arbiter"] = "guest"
    host: str
    port: int = 8020
    f_port: int = 5000
    data: str


class Settings(BaseModel):
    """One demo.

    Attributes:
        host, port: REST of the TTP.
        example: folder with `dataset`, `architecture.json` and `hyperparameters.json`; its name starts every tag.
        parameters: run parameters that replace those of `hyperparameters.json`.
    """

    model_config = ConfigDict(extra="forbid")

    host: str
    port: int = 5000
    collab_id: str = "demo"
    project_id: str
    expt_id: str = "model"
    run_id: str = "run"
    example: Path
    participants: list[Participant] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, str, str, str]:
        """The combination that is trained."""
        return self.collab_id, self.project_id, self.expt_id, self.run_id

    def tag(self, participant: Participant, meta: str) -> list[str]:
        """Return the path tokens of one participant's data set."""
        return [self.example.name, "dataset", participant.data, meta]

    def read(self, *path: str) -> Any:
        """Return the content of a JSON file of the example or raise `Invalid` with its path."""
        file = self.example.joinpath(*path)
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Invalid(f"The example needs a readable JSON file {file}: {error}.") from error

    @property
    def run_parameters(self) -> dict[str, Any]:
        """Run parameters of the example with this demo's own on top."""
        return {**self.read("hyperparameters.json"), **self.parameters}

    @property
    def action(self) -> Action:
        """What the label column asks for: classes or a number."""
        schema = self.read("dataset", self.participants[0].data, "train", "schema.json")
        if "target" not in schema:
            raise Invalid(f"The schema of {self.example.name} has no column 'target'; it has {', '.join(schema)}.")
        return "classify" if schema["target"] == "category" else "regress"


def parse(text: str) -> Settings:
    """Return the settings written in `text` (JSON) or raise `Invalid` naming every field that is wrong."""
    try:
        return Settings.model_validate_json(text)
    except ValidationError as error:
        wrong = [": ".join(filter(None, [".".join(map(str, item["loc"])), item["msg"]])) for item in error.errors()]
        raise Invalid(f"The demo's settings cannot be used: {'; '.join(wrong)}.") from error
