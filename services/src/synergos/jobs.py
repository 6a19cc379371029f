"""The work that a grid does, as data: what goes into alignment, training and inference, and what comes out.

Jobs are plain JSON, so the same objects serve a call inside one process and, in a cluster, a message in a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

Action = Literal["regress", "classify"]
Datatype = Literal["tabular", "image", "text"]
Meta = Literal["train", "evaluate", "predict"]
METAS: tuple[Meta, ...] = ("train", "evaluate", "predict")


class Node(BaseModel):
    """Where one participant's worker listens.

    Attributes:
        participant_id: the owner of the worker.
        host: name or address, as registered.
        command_port: REST port (`f_port` of a registration).
        data_port: port of the training messages (`port` of a registration).
    """

    participant_id: str
    host: str
    command_port: int
    data_port: int
    log_msgs: bool = False
    verbose: bool = False


class Tags(BaseModel):
    """Data sets of one participant: per meta a list of tags, each a list of path tokens."""

    train: list[list[str]] = Field(default_factory=list)
    evaluate: list[list[str]] = Field(default_factory=list)
    predict: list[list[str]] = Field(default_factory=list)


class Spacers(BaseModel):
    """Ascending positions in the aligned layout where this participant has no column of its own."""

    X: list[int] = Field(default_factory=list)
    y: list[int] = Field(default_factory=list)


class Layout(BaseModel):
    """What all participants of a project agreed on.

    Attributes:
        datatype: kind of data.
        X: aligned feature names in order: columns of tables, words of texts; empty for images.
        shape: images only: (channels, height, width) that every image is brought to.
        y: aligned label names in order (`target` for regression, `target_<class>` otherwise).
        scaling: numeric feature → (mean, standard deviation) pooled over the participants' training sets.
        counts: label name → training rows of all participants, where they told it.
    """

    datatype: Datatype = "tabular"
    X: list[str] = Field(default_factory=list)
    shape: list[int] = Field(default_factory=list)
    y: list[str] = Field(default_factory=list)
    scaling: dict[str, tuple[float, float]] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row as a model sees it."""
        return tuple(self.shape) if self.datatype == "image" else (len(self.X),)


class Alignment(BaseModel):
    """One participant's place in the agreed layout; empty spacers for a meta without data."""

    train: Spacers = Field(default_factory=Spacers)
    evaluate: Spacers = Field(default_factory=Spacers)
    predict: Spacers = Field(default_factory=Spacers)
    layout: Layout = Field(default_factory=Layout)


class Party(BaseModel):
    """One participant as a job sees it."""

    node: Node
    tags: Tags
    alignment: Alignment | None = None


class AlignJob(BaseModel):
    """Agree on names, classes and scaling; with `auto_fix` also fit each experiment's model to them."""

    collab_id: str
    project_id: str
    action: Action
    parties: list[Party]
    experiments: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    auto_align: bool = True
    auto_fix: bool = True


class AlignResult(BaseModel):
    """Alignment per participant, and the experiments whose model changed (expt_id → layers)."""

    alignments: dict[str, Alignment] = Field(default_factory=dict)
    experiments: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)


class RunJob(BaseModel):
    """What training and inference of one combination have in common."""

    collab_id: str
    project_id: str
    expt_id: str
    run_id: str
    action: Action
    parties: list[Party]
    model: list[dict[str, Any]]
    parameters: dict[str, Any] = Field(default_factory=dict)
    auto_align: bool = True

    @property
    def ids(self) -> dict[str, str]:
        """The combination."""
        names = ("collab_id", "project_id", "expt_id", "run_id")
        return {name: getattr(self, name) for name in names}


class TrainJob(RunJob):
    """Train one combination on every party's `train` set."""


class ParticipantRound(BaseModel):
    """One participant's part of a round: mean training loss per row, rows, and seconds that it computed."""

    loss: float
    rows: int
    seconds: float


class RoundProgress(BaseModel):
    """What one finished round of training brought.

    Attributes:
        round: from 1.
        rounds: rounds that the run may take.
        seconds: duration of the round.
        train_loss: mean over all rows of the losses that the participants ended the round with.
        previous_evaluate_loss: loss on the `evaluate` sets of the weights that the round started from: they are
            evaluated where they are trained on. None in round 1 and without such sets.
        participants: who took part.
        left_out: who did not answer, in a run that goes on without them.
    """

    round: int
    rounds: int
    seconds: float
    train_loss: float
    previous_evaluate_loss: float | None = None
    participants: dict[str, ParticipantRound] = Field(default_factory=dict)
    left_out: list[str] = Field(default_factory=list)


Watch = Callable[[RoundProgress], None]


class TrainResult(BaseModel):
    """Files of a trained model: `global` and `local_<n>` → {origin, path, loss_history, checkpoints}.

    `global` also tells `rounds` (finished) and `best_round` (whose weights are kept, from 1).
    """

    paths: dict[str, dict[str, Any]]


class InferJob(RunJob):
    """Run the final global model of a combination on one meta of the named participants."""

    meta: Literal["evaluate", "predict"]
    participants: list[str]


class InferResult(BaseModel):
    """participant → {"statistics": {...}, "res_path": path inside the worker}."""

    results: dict[str, dict[str, Any]]


class Engine(Protocol):
    """What can do the jobs, one at a time. Failures are `synergos.errors.SynergosError`; they leave every worker free.

    Every job can be given again after the process was killed in the middle of it: it ends with what it would have
    ended with, and a training goes on behind its last finished round.
    """

    def align(self, job: AlignJob) -> AlignResult:
        """Poll every party, then compute the alignment. Stored alignments of the parties are ignored."""

    def realign(self, job: AlignJob, participant_id: str) -> Alignment:
        """Poll again after `participant_id` changed its predict tags and return its new alignment.

        The layout that the parties were trained with stays. Raises `FeatureDrift` with the names of columns or
        classes that this layout does not know.
        """

    def train(self, job: TrainJob, watch: Watch | None = None) -> TrainResult:
        """Train one combination and write its model files; `watch` is told each round when it has ended.

        A training that goes on after a kill first tells the rounds that were finished before.
        """

    def infer(self, job: InferJob) -> InferResult:
        """Run the trained model of a combination at the named participants."""

    def cancel(self, reason: str) -> None:
        """Make the job that is under way, of whatever kind, end with `synergos.errors.Cancelled`.

        Callable from any thread. Nothing happens if no job is under way.
        """
