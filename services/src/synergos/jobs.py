"""The work that a grid does, as data: what goes into alignment, training and inference, and what comes out.

Jobs are plain JSON, so the same objects serve a call inside one process and, in a cluster, a message in a queue.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

Action = Literal["regress", "classify"]
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
        X: aligned feature names in order.
        y: aligned label names in order (`target` for regression, `target_<class>` otherwise).
        scaling: numeric feature → (mean, standard deviation) pooled over the participants' training sets.
    """

    X: list[str] = Field(default_factory=list)
    y: list[str] = Field(default_factory=list)
    scaling: dict[str, tuple[float, float]] = Field(default_factory=dict)


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


class TrainJob(RunJob):
    """Train one combination on every party's `train` set."""


class TrainResult(BaseModel):
    """Files of a trained model: `global` and `local_<n>` → {origin, path, loss_history}."""

    paths: dict[str, dict[str, str]]


class InferJob(RunJob):
    """Run the final global model of a combination on one meta of the named participants."""

    meta: Literal["evaluate", "predict"]
    participants: list[str]


class InferResult(BaseModel):
    """participant → {"statistics": {...}, "res_path": path inside the worker}."""

    results: dict[str, dict[str, Any]]


class Engine(Protocol):
    """What can do the jobs. Failures are `synergos.errors.SynergosError`; a raised job leaves every worker free."""

    def align(self, job: AlignJob) -> AlignResult:
        """Poll every party, then compute the alignment. Stored alignments of the parties are ignored."""

    def realign(self, job: AlignJob, participant_id: str) -> Alignment:
        """Poll again after `participant_id` changed its predict tags and return its new alignment.

        The layout that the parties were trained with stays. Raises `FeatureDrift` with the names of columns or
        classes that this layout does not know.
        """

    def train(self, job: TrainJob) -> TrainResult:
        """Train one combination and write its model files."""

    def infer(self, job: InferJob) -> InferResult:
        """Run the trained model of a combination at the named participants."""
