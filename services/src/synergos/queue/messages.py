"""What travels through the broker: jobs to the grids, what became of them back, and where each message goes.

Field names that the first Synergos had are kept: `process`, `keys`, `grids`, `parameters`; `process`, `filters`,
`outputs`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from synergos.jobs import Party, RoundProgress

Process = Literal["preprocess", "train", "validate", "predict"]
# What a database takes.
Count = Annotated[int, Field(ge=-1, lt=2**31)]
JOB_QUEUES = ("preprocess", "train", "evaluate")  # most urgent first
RESULT_QUEUES = ("completed", "progress")
DEAD_QUEUE = "dead"
JOBS = "SynMQ_topic_logs"
RESULTS = "SynMQ_fanout_logs"
PROGRESS = "SynMQ_fanout_progress"
CONTROL = "SynMQ_fanout_control"
RESULT_KEY = "SynMQ_fanout_completed"
_QUEUE: dict[Process, str] = {
    "preprocess": "preprocess",
    "train": "train",
    "validate": "evaluate",
    "predict": "evaluate",
}


class Message(BaseModel):
    """Anything that travels; fields that nobody knows are refused."""

    model_config = ConfigDict(extra="forbid")


class Job(Message):
    """Work for any grid that can do it.

    Attributes:
        job_id: the Director's job.
        part: tells the messages of one job apart: one per combination. Same `job_id` and `part`, same work.
        attempt: counts how often the Director sent this part, from 1.
        process: what is to be done.
        keys: ids of what it is done to: collaboration, project, experiment, run, as far as they apply.
        grids: per grid index, the participants with the worker that belongs to this grid.
        parameters: what the process needs beside.
        trace_id: trace that the request began.
    """

    kind: Literal["job"] = "job"
    job_id: str
    part: str = ""
    attempt: Count = 1
    process: Process
    keys: list[str]
    grids: list[list[Party]]
    parameters: dict[str, Any] = Field(default_factory=dict)
    trace_id: str | None = None

    @property
    def queue(self) -> str:
        """Queue that carries it."""
        return _QUEUE[self.process]

    @property
    def identity(self) -> tuple[str, str, int]:
        """What is the same in every copy of this message, and in no other message."""
        return self.job_id, self.part, self.attempt


class Failure(BaseModel):
    """Why work failed: a sentence for the user, and the HTTP status that tells it."""

    reason: str
    status: int


class _Answer(Message):
    """What a grid tells of a job."""

    job_id: str
    part: str = ""
    attempt: Count = 1
    grid: Count
    ttp: str
    trace_id: str | None = None

    @property
    def identity(self) -> tuple[str, str, int]:
        """That of the job."""
        return self.job_id, self.part, self.attempt


class Completed(_Answer):
    """The end of a job at a grid: what it brought, or why it failed. The same one may come more than once.

    Attributes:
        grid: index of the grid.
        ttp: id of the TTP.
        filters: the job's `keys`.
        outputs: what the process brought; empty after a failure.
        failure: None after success.
    """

    kind: Literal["completed"] = "completed"
    process: Process
    filters: list[str]
    outputs: dict[str, Any] = Field(default_factory=dict)
    failure: Failure | None = None


class Progress(_Answer):
    """How far a job is. May be lost, may come twice, and may come after `Completed`.

    Attributes:
        state: `taken` when a grid began with it, `round` when a round has ended.
        round: that round.
    """

    kind: Literal["progress"] = "progress"
    state: Literal["taken", "round"]
    round: RoundProgress | None = None


class Cancel(Message):
    """Asks every TTP to end a job if it is at work on it. May be lost."""

    kind: Literal["cancel"] = "cancel"
    job_id: str
    reason: str


class Lost(BaseModel):
    """A job that the broker put aside: no grid could do it as often as is allowed. It is in the queue `dead`, too.

    Attributes:
        cause: `delivery_limit`, `rejected`, `expired` or `maxlen`.
    """

    job: Job
    cause: str


_ADAPTER: TypeAdapter[Job | Completed | Progress | Cancel] = TypeAdapter(
    Annotated[Job | Completed | Progress | Cancel, Field(discriminator="kind")]
)


class Malformed(Exception):
    """A message that is none of ours."""


def encode(message: Message) -> bytes:
    """Return the body that carries `message`."""
    return message.model_dump_json().encode()


def decode(body: bytes) -> Job | Completed | Progress | Cancel:
    """Return what `body` carries; raises `Malformed`, which says what is wrong with it."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise Malformed(f"{place}: {first['msg']}") from None


def route(message: Message) -> tuple[str, str]:
    """Return exchange and routing key of a message."""
    if isinstance(message, Job):
        return JOBS, f"SynMQ_topic_{message.queue}"
    if isinstance(message, Completed):
        return RESULTS, RESULT_KEY
    if isinstance(message, Progress):
        return PROGRESS, ""
    if isinstance(message, Cancel):
        return CONTROL, ""
    raise TypeError(f"{type(message).__name__} has no place in the broker")
