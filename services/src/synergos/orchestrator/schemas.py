"""What clients may send, field by field. A body is checked in full before anything is stored.

Each resource has a form with every field optional (`…Changes`, for PUT) and, derived from it, the form that creates it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    model_validator,
)
from pydantic_core import to_json

from synergos.ids import Token, check_id
from synergos.jobs import Action
from synergos.orchestrator.kinds import REGISTRATION, RUN
from synergos.orchestrator.ledger import Process, State
from synergos.rest import shorten

# Absent, as opposed to null: the field keeps its stored value.
_UNSET: Any = None
# Clients repeat a record's ids in its body, and send records back as they read them.
_IDS = frozenset(RUN.key + REGISTRATION.key)
_SERVED = frozenset({"doc_id", "kind", "key", "relations", "created_at", "link"})
_MAX_DEPTH = 32
_NODE = re.compile(r"node_(0|[1-9][0-9]{0,3})")


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 5.0 is an integer there.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _class_weights(value: Any) -> Any:
    weights = value if isinstance(value, list) and value else [None]
    numbers = [item for item in weights if isinstance(item, int | float) and not isinstance(item, bool) and item > 0]
    if value in (None, "balanced") or len(numbers) == len(weights):
        return value
    raise ValueError(f"give 'balanced', or a list with a number above 0 for each class, not {shorten(repr(value))}")


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in inner)


def _id(value: str, info: ValidationInfo) -> str:
    return check_id(value, str(info.field_name))


def _segment(value: str) -> str:
    if value in (".", "..") or re.search(r"[/\\\x00]", value):
        raise ValueError(f"{value!r} is not the name of one folder or file")
    return value


Id = Annotated[str, AfterValidator(_id)]
Integer = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Port = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_whole)]
Size = Integer | list[Integer]
TagPath = Annotated[list[Annotated[Token, AfterValidator(_segment)]], Field(min_length=1)]


class Payload(BaseModel):
    """Exact types, no unknown fields, no infinite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Changes(Payload):
    """Some fields of a record.

    Attributes:
        ignored: fields that may be sent and have no effect.
    """

    ignored: ClassVar[frozenset[str]] = _IDS | _SERVED

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        # Free values are checked here: what cannot be sent back must not be stored.
        if _deeper(data, _MAX_DEPTH):
            raise ValueError(f"the body is nested more than {_MAX_DEPTH} levels deep")
        try:
            to_json(data)
        except ValueError as error:
            raise ValueError("the body holds text that is not valid Unicode") from error
        dropped = cls.ignored - cls.model_fields.keys()
        return {name: value for name, value in data.items() if name not in dropped}

    def body(self) -> dict[str, Any]:
        """Return the fields that were sent, as they are stored."""
        return self.model_dump(exclude_unset=True, exclude=set(_IDS))


class Ports(Payload):
    """Ports of a component: `main` for its clients, `ui` for people."""

    main: Port | None
    ui: Port | None = None


class LogPorts(Ports):
    """Ports of the log server: one input per kind of sender."""

    sysmetrics: Port | None
    director: Port | None
    ttp: Port | None
    worker: Port | None


class Component(Payload):
    """Where a component of a collaboration is reached; `{}` removes it."""

    host: str | None = None
    ports: Ports = _UNSET
    secure: bool | None = None


class Logs(Component):
    """Where the log server is reached."""

    ports: LogPorts = _UNSET


class CollaborationChanges(Changes):
    """Components of a collaboration. Unknown fields are stored, but not shown."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    catalogue: Component = _UNSET
    logs: Logs = _UNSET
    meter: Component = _UNSET
    mlops: Component = _UNSET
    mq: Component = _UNSET


class Collaboration(CollaborationChanges):
    """A new collaboration."""

    collab_id: Id


class ProjectChanges(Changes):
    """What a project is about."""

    action: Action = _UNSET
    incentives: dict[str, JsonValue] = _UNSET
    start_at: JsonValue = _UNSET
    universe_alignment: list[str] = _UNSET


class Project(ProjectChanges):
    """A new project."""

    project_id: Id
    incentives: dict[str, JsonValue]


class Structure(Payload):
    """Arguments of a layer. Names that are not listed are stored as they come; the training checks them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    in_features: Integer | None = None
    out_features: Integer | None = None
    in_channels: Integer | None = None
    out_channels: Integer | None = None
    num_features: Integer | None = None
    num_channels: Integer | None = None
    num_groups: Integer | None = None
    num_embeddings: Integer | None = None
    num_layers: Integer | None = None
    num_parameters: Integer | None = None
    embedding_dim: Integer | None = None
    padding_idx: Integer | None = None
    input_size: Integer | None = None
    groups: Integer | None = None
    start_dim: Integer | None = None
    end_dim: Integer | None = None
    dim: Integer | None = None
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size | None = None
    output_padding: Size | None = None
    dilation: Size | None = None
    hidden_size: Size | None = None
    output_size: Size | None = None
    normalized_shape: Size | None = None
    dropout: float | None = None
    eps: float | None = None
    momentum: float | None = None
    p: float | None = None
    alpha: float | None = None
    negative_slope: float | None = None
    bias: bool | None = None
    affine: bool | None = None
    track_running_stats: bool | None = None
    ceil_mode: bool | None = None
    count_include_pad: bool | None = None
    return_indices: bool | None = None
    batch_first: bool | None = None
    bidirectional: bool | None = None
    inplace: bool | None = None
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"] | None = None
    nonlinearity: Literal["tanh", "relu"] | None = None
    mode: Literal["sum", "mean", "max"] | None = None
    reduction: Literal["none", "mean", "sum"] | None = None


class Layer(Payload):
    """One layer of a model; all four fields are required."""

    is_input: bool
    l_type: str
    structure: Structure
    activation: str | None


class LayerChanges(Layer):
    """A layer as an answer shows it: without an empty structure and without a null activation."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return {"structure": {}, "activation": None, **data} if isinstance(data, Mapping) else data


class ExperimentChanges(Changes):
    """The model of an experiment."""

    model: list[LayerChanges] = _UNSET


class Experiment(Changes):
    """A new experiment."""

    expt_id: Id
    model: list[Layer]


class RunChanges(Changes):
    """Hyperparameters. Names that are not listed are stored and handed to the training, which checks them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    algorithm: str = _UNSET
    optimizer: str = _UNSET
    criterion: str = _UNSET
    lr_scheduler: str | None = None
    rounds: Count = _UNSET
    epochs: Count = _UNSET
    batch_size: Count | None = None
    seed: Integer = _UNSET
    precision_fractional: Integer = _UNSET
    input_size: Integer = _UNSET
    output_size: Integer = _UNSET
    step_size_up: Integer = _UNSET
    step_size_down: Integer | None = None
    last_epoch: Integer = _UNSET
    patience: Integer = _UNSET
    lr: float = _UNSET
    lr_decay: float = _UNSET
    weight_decay: float = _UNSET
    mu: float = _UNSET
    l1_lambda: float = _UNSET
    l2_lambda: float = _UNSET
    dampening: float = _UNSET
    base_lr: float = _UNSET
    max_lr: float = _UNSET
    gamma: float = _UNSET
    base_momentum: float = _UNSET
    max_momentum: float = _UNSET
    delta: float = _UNSET
    is_condensed: bool = _UNSET
    is_snn: bool = _UNSET
    use_CLR: bool = _UNSET
    cycle_momentum: bool = _UNSET
    cumulative_delta: bool = _UNSET
    class_weights: Annotated[
        Literal["balanced"] | list[float] | None,
        BeforeValidator(_class_weights),
        Field(
            description="Weight of each class in the loss, in the order of the aligned classes; 'balanced' weighs a "
            "class by how rare it is among the training rows of all participants."
        ),
    ] = None
    min_participants: Annotated[
        Count | None,
        Field(
            description="The run goes on while at least so many participants answer; absent or null: all of them must."
        ),
    ] = None
    grace: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="Seconds that a participant may be away before it is left out or the run fails; 60 if absent.",
        ),
    ] = _UNSET
    checkpoints: Annotated[
        int,
        Field(ge=0, description="Rounds between two checkpoints that are kept; 0, as if absent: none is kept."),
        BeforeValidator(_whole),
    ] = _UNSET
    reduction: Literal["none", "mean", "sum"] = _UNSET
    mode: Literal["triangular", "triangular2", "exp_range"] = _UNSET
    scale_mode: Literal["cycle", "iterations"] = _UNSET


def _run_id(value: str) -> str:
    if value == "optimizations":
        raise ValueError("'optimizations' is taken: it names a resource beside the runs")
    return check_id(value, "run_id")


class Run(RunChanges):
    """A new run."""

    run_id: Annotated[str, AfterValidator(_run_id)]


class ParticipantChanges(Changes):
    """Who a participant is."""

    ignored = Changes.ignored | {"id"}

    category: list[str] | None = None
    summary: str | None = None
    phone: str | None = None
    email: str | None = None
    socials: dict[str, JsonValue] | None = None


class Participant(ParticipantChanges):
    """A new participant; `id` becomes its participant_id."""

    id: Id


class Node(Payload):
    """One worker of a participant: `f_port` takes commands, `port` the messages of a training."""

    host: Annotated[str, Field(min_length=1, max_length=255)]
    port: Annotated[Port, Field(ge=1)]
    f_port: Annotated[Port, Field(ge=1)]
    log_msgs: bool = False
    verbose: bool = False


class RegistrationChanges(Changes):
    """How a participant takes part in a project: its role, and its workers as `node_0`, `node_1`, …"""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"additionalProperties": {"$ref": "#/components/schemas/Node"}},
    )
    __pydantic_extra__: dict[str, Node]
    ignored = Changes.ignored | {"collaboration", "project", "participant"}

    role: Literal["host", "guest", "arbiter"] = _UNSET
    n_count: Annotated[Count, Field(le=1000)] = _UNSET

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name in data:
                if name not in cls.model_fields and name not in cls.ignored and not _NODE.fullmatch(name):
                    raise ValueError(f"unknown field {name!r}: a registration has role, n_count, node_0, node_1, …")
        return data

    def body(self) -> dict[str, Any]:
        """Return the fields that were sent; nodes in full."""
        nodes = {name: node.model_dump() for name, node in self.__pydantic_extra__.items()}
        return {**super().body(), **nodes}


class Registration(RegistrationChanges):
    """A new registration with all its nodes."""

    role: Literal["host", "guest", "arbiter"]
    n_count: Annotated[Count, Field(le=1000)]

    @model_validator(mode="after")
    def _check_nodes(self) -> Registration:
        wanted = {f"node_{index}" for index in range(self.n_count)}
        given = self.__pydantic_extra__.keys()
        if missing := sorted(wanted - given):
            raise ValueError(f"n_count is {self.n_count}, but {missing[0]} is missing")
        if surplus := sorted(given - wanted):
            raise ValueError(f"{surplus[0]} is given, but n_count is {self.n_count}: nodes count from node_0")
        return self


class TagChanges(Changes):
    """Which data a participant brings in: per meta a list of paths, each a list of folder names."""

    train: list[TagPath] = _UNSET
    evaluate: list[TagPath] = _UNSET
    predict: list[TagPath] = _UNSET
    model: list[str] = _UNSET
    hyperparameters: list[str] = _UNSET


class Tag(TagChanges):
    """The data of a new registration."""

    train: list[TagPath]


class AlignmentOrder(Payload):
    """Options of an alignment."""

    auto_align: bool = True
    auto_fix: bool = True


class Order(Payload):
    """Options of a training or validation. `dockerised`, `verbose` and `log_msgs` are taken and have no effect."""

    auto_align: bool = True
    dockerised: bool = True
    verbose: bool = True
    log_msgs: bool = True


class PredictionOrder(Order):
    """Options of a prediction; `tags`: project_id → paths of the data to predict."""

    tags: Annotated[dict[str, Annotated[list[TagPath], Field(min_length=1)]], Field(min_length=1)]


class JobFilters(Payload):
    """Which jobs to list: those whose request named all of these ids, in this state."""

    collab_id: str | None = None
    project_id: str | None = None
    expt_id: str | None = None
    run_id: str | None = None
    process: Process | None = None
    state: State | None = None
