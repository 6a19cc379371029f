"""The server's part of a run: Flower's strategies, with a record of what every round brought.

A round is one exchange. Flower's own loop sends the aggregated weights out twice, once to be evaluated and once to be
trained on; here the workers evaluate the weights that the next round brings them anyway, and only the last round's are
sent for evaluation alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from synergos.errors import GridFailure
from synergos.federation import codec
from synergos.federation.grid import DirectGrid
from synergos.federation.parameters import Parameters
from synergos.federation.training import Stagnation

# Flower narrates each round in a dozen lines; the run's own record is the progress callback.
logging.getLogger("flwr").setLevel(logging.ERROR)

Progress = Callable[[int, "History"], None]


class History:
    """Losses per round, counted from 0.

    Attributes:
        train: mean over all training rows of the losses that the participants ended the round with.
        evaluate: mean over all `evaluate` rows, for the aggregated weights of the round; empty without such rows.
        local: participant → its own training losses.
    """

    def __init__(self, participants: Iterable[str]) -> None:
        self.train: list[float] = []
        self.evaluate: list[float] = []
        self.local: dict[str, list[float]] = {participant_id: [] for participant_id in participants}


class Outcome:
    """What a run ends with: the global weights, each participant's last own weights, and the losses."""

    def __init__(self, weights: ArrayRecord, local: dict[str, ArrayRecord], history: History) -> None:
        self.weights, self.local, self.history = weights, local, history


class _Stagnated(Exception):
    """The run has stopped to improve: the weights that the current round started from are final."""


class _Recording(flower.FedAvg):
    """What every strategy of ours adds to Flower's: checks, history, evaluation on the way, early stopping."""

    def prepare(self, grid: DirectGrid, parameters: Parameters, progress: Progress) -> None:
        self.grid, self.progress, self.rounds = grid, progress, parameters.rounds
        self.history = History(grid.name(node) for node in grid.get_node_ids())
        self.local: dict[str, ArrayRecord] = {}
        self.weights = ArrayRecord()
        self._stagnation = Stagnation(parameters.patience, parameters.delta)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.weights = arrays
        config["evaluate"] = server_round > 1
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        local = {self._who(reply): self._update(reply) for reply in replies}
        if server_round > 1:
            self._evaluated(replies)
            monitored = self.history.evaluate or self.history.train
            if self._stagnation.after(monitored[-1]):
                raise _Stagnated
        self.local = local
        for reply in replies:
            self.history.local[self._who(reply)].append(_number(reply, "train-loss"))
        self.history.train.append(_mean(replies, "train-loss", "num-examples"))
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None:
            self._check_finite(arrays)
            self.weights = arrays = _as_before(arrays, self.weights)
        self.progress(server_round, self.history)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round < self.rounds:
            return []
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        if replies := list(replies):
            self._evaluated(replies)
        return None

    def _evaluated(self, replies: Sequence[Message]) -> None:
        if any(_number(reply, "evaluate-examples") for reply in replies):
            self.history.evaluate.append(_mean(replies, "evaluate-loss", "evaluate-examples"))

    def _who(self, reply: Message) -> str:
        return self.grid.name(reply.metadata.src_node_id)

    def _update(self, reply: Message) -> ArrayRecord:
        """Return the weights of a reply if they fit the model, whatever the participant says they are."""
        record = reply.content.get(self.arrayrecord_key)
        if not isinstance(record, ArrayRecord) or record.keys() != self.weights.keys():
            raise GridFailure(f"Participant {self._who(reply)} gave no weights of this model.")
        for name, array in record.items():
            expected = self.weights[name]
            if array.shape != expected.shape or array.dtype != expected.dtype:
                raise GridFailure(f"Participant {self._who(reply)} gave weights {name} of another shape or type.")
        if _number(reply, "num-examples") < 1 or not math.isfinite(_number(reply, "train-loss")):
            raise GridFailure(f"Participant {self._who(reply)} gave no usable number of rows or loss.")
        return record

    def _check_finite(self, arrays: ArrayRecord) -> None:
        # One bad number anywhere shows in the average, so that in a sound round only that is looked at.
        for name, array in arrays.items():
            if not np.isfinite(array.numpy()).all():
                guilty = [who for who, own in self.local.items() if not np.isfinite(own[name].numpy()).all()]
                raise GridFailure(
                    f"The weights {name} of {', '.join(guilty) or 'all together'} are no longer finite: "
                    "lower lr (or max_lr), or check the data for extreme values."
                )


class FedAvg(_Recording):
    """Flower's FedAvg."""


class FedProx(_Recording, flower.FedProx):
    """Flower's FedProx."""


def make_strategy(parameters: Parameters, participants: int) -> _Recording:
    """Return the strategy that the run's `algorithm` names; all participants take part in every round."""
    options: dict[str, Any] = {
        "min_train_nodes": participants,
        "min_evaluate_nodes": participants,
        "min_available_nodes": participants,
        # The history takes its own means, each over the rows that belong to it.
        "train_metrics_aggr_fn": lambda *_: MetricRecord(),
    }
    if parameters.algorithm == "FedProx":
        return FedProx(proximal_mu=parameters.mu, **options)
    return FedAvg(**options)


def run(
    grid: DirectGrid,
    weights: ArrayRecord,
    parameters: Parameters,
    settings: dict[str, str],
    progress: Progress,
    round_timeout: float,
) -> Outcome:
    """Train over `grid` and return what came out.

    Args:
        weights: to start from.
        settings: `architecture` and `parameters` as JSON, sent with every message.
        progress: called after each round.
        round_timeout: seconds that a participant may take for one message.

    Raises:
        GridFailure: a participant failed; the message names it.
        Cancelled: the grid was cancelled.
    """
    strategy = make_strategy(parameters, len(grid.get_node_ids()))
    strategy.prepare(grid, parameters, progress)
    with contextlib.suppress(_Stagnated):
        strategy.start(
            grid,
            weights,
            num_rounds=parameters.rounds,
            timeout=round_timeout,
            train_config=ConfigRecord(dict(settings)),
            evaluate_config=ConfigRecord(dict(settings)),
        )
    return Outcome(strategy.weights, strategy.local, strategy.history)


def query(
    grid: DirectGrid, weights: ArrayRecord, settings: dict[str, str], meta: str, timeout: float
) -> dict[str, str]:
    """Have every participant run the model on its set `meta`; return participant → its JSON answer."""
    content = RecordDict({"arrays": weights, "config": ConfigRecord({**settings, "meta": meta})})
    messages = [grid.create_message(content, "query", node, "") for node in grid.get_node_ids()]
    answers: dict[str, str] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        name = grid.name(reply.metadata.src_node_id)
        config = reply.content.get("config")
        if not isinstance(config, ConfigRecord) or not isinstance(config.get("result"), str):
            raise GridFailure(f"Participant {name} gave no result.")
        answers[name] = str(config["result"])
    return answers


def _number(reply: Message, key: str) -> float:
    # By name: `content.metric_records` builds a dictionary at each access, and this is asked a dozen times a round.
    metrics = reply.content.get("metrics")
    value = metrics.get(key) if isinstance(metrics, MetricRecord) else None
    if not isinstance(value, (int, float)):
        raise GridFailure(f"A reply lacks the metric {key}.")
    return float(value)


def _mean(replies: Sequence[Message], key: str, weight: str) -> float:
    weights = [_number(reply, weight) for reply in replies]
    return sum(w * _number(reply, key) for w, reply in zip(weights, replies, strict=True)) / sum(weights)


def _as_before(arrays: ArrayRecord, reference: ArrayRecord) -> ArrayRecord:
    """Return `arrays` in the element types of `reference`: averages of whole numbers (counters) are rounded."""
    for name, array in arrays.items():
        if array.dtype != reference[name].dtype:
            arrays[name] = codec.to_array(np.rint(array.numpy()).astype(reference[name].dtype))
    return arrays
