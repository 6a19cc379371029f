"""What the demo is told: where the TTP is, who takes part, and which example they train on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synergos.errors import Invalid
from synergos.jobs import Action, Meta

# Where a notebook finds the grid: JSON with `host`, `port`, `participants`, `logs`, `mlops`, `mq` and `pages` as in
# `Settings`, and `examples`, a folder.
GRID = "SYNERGOS_GRID"


class Node(BaseModel):
    """A worker.

    Attributes:
        host: name or address, as the TTP reaches it.
        port: data port.
        f_port: REST port.
    """

    model_config = ConfigDict(extra="forbid")

    host: str
    port: int = 8020
    f_port: int = 5000


class Participant(Node):
    """One participant and the worker that holds its data.

    Attributes:
        data: the participant's folder below the example's `dataset`.
        nodes: the workers, one for each grid; without them there is one, at `host`.
    """

    participant_id: str
    role: Literal["host", "guest", "arbiter"] = "guest"
    data: str
    nodes: list[Node] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        self.nodes = self.nodes or [Node(host=self.host, port=self.port, f_port=self.f_port)]
        return self


class Component(BaseModel):
    """A component that serves the collaboration, as its record holds it.

    Attributes:
        host, ports: where the TTP reaches it; port `main` is its REST API.
    """

    model_config = ConfigDict(extra="forbid")

    host: str
    ports: dict[str, int]
    secure: bool = False


class Settings(BaseModel):
    """One demo.

    Attributes:
        host, port: REST of the TTP or, in a cluster, of the Director.
        logs, mlops, mq: log server, experiment tracker and broker, as far as the tier has them.
        trace_id: joins the log lines of several phases; each makes its own without.
        pages: URLs under which a browser reaches `ttp`, `logs` (a search that lacks only its query), `mlops` and `mq`.
        example: folder with `dataset`, `architecture.json` and `hyperparameters.json`; its name starts every tag.
        split: how the rows for training were shared out between the participants: evenly, or not.
        parameters: run parameters that replace those of `hyperparameters.json`.
        trials: how many the search makes.
    """

    model_config = ConfigDict(extra="forbid")

    host: str
    port: int = 5000
    logs: Component | None = None
    mlops: Component | None = None
    mq: Component | None = None
    pages: dict[str, str] = Field(default_factory=dict)
    trace_id: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    collab_id: str = "demo"
    project_id: str
    expt_id: str = "model"
    run_id: str = "run"
    example: Path
    split: Literal["iid", "non_iid"] = "iid"
    participants: list[Participant] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    trials: int = Field(default=8, ge=1)

    @property
    def keys(self) -> tuple[str, str, str, str]:
        """The combination that is trained."""
        return self.collab_id, self.project_id, self.expt_id, self.run_id

    @property
    def components(self) -> dict[str, dict[str, Any]]:
        """What the collaboration's record says of its components."""
        known = {"logs": self.logs, "mlops": self.mlops, "mq": self.mq}
        return {name: component.model_dump() for name, component in known.items() if component}

    def tag(self, participant: Participant, meta: Meta) -> list[str]:
        """Return the path tokens of one participant's data set."""
        folder = "non_iid_train" if meta == "train" and self.split == "non_iid" else meta
        return [self.example.name, "dataset", participant.data, folder]

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
        """What the label asks for: classes, or a number where a table's column `target` is one."""
        _, *folder = self.tag(self.participants[0], "train")
        if self.read(*folder, "metadata.json").get("datatype") != "tabular":
            return "classify"
        schema = self.read(*folder, "schema.json")
        if "target" not in schema:
            raise Invalid(f"The schema of {self.example.name} has no column 'target'; it has {', '.join(schema)}.")
        return "classify" if schema["target"] == "category" else "regress"


def here(example: str, **changes: Any) -> Settings:
    """Return settings for a data set on the grid that the environment names (variable `SYNERGOS_GRID`).

    Args:
        example: its folder's name.
        changes: further fields of `Settings`.
    """
    text = os.environ.get(GRID)
    if not text:
        raise Invalid(f"{GRID} is not set: start JupyterLab with `make notebooks`, which tells it where the grid is.")
    try:
        grid = json.loads(text)
        folder = Path(grid.pop("examples"), example)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{GRID} has to be a JSON object with host, port, participants and examples.") from error
    return parse(json.dumps({"project_id": example, **grid, "example": str(folder), **changes}))


def parse(text: str) -> Settings:
    """Return the settings written in `text` (JSON) or raise `Invalid` naming every field that is wrong."""
    try:
        return Settings.model_validate_json(text)
    except ValidationError as error:
        wrong = [": ".join(filter(None, [".".join(map(str, item["loc"])), item["msg"]])) for item in error.errors()]
        raise Invalid(f"The demo's settings cannot be used: {'; '.join(wrong)}.") from error
