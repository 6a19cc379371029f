"""The server's part of a run: rounds over a grid, with a record of what every round brought.

A round is one exchange. Flower's own loop sends the aggregated weights out twice, once to be evaluated and once to be
trained on; here the workers evaluate the weights that the next round brings them anyway, and only the last round's are
sent for evaluation alone.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from synergos.errors import GridFailure, Unreachable
from synergos.federation.aggregation import Aggregation
from synergos.federation.checkpoint import Snapshot
from synergos.federation.grid import DirectGrid, Lost
from synergos.federation.parameters import Parameters
from synergos.federation.training import Stagnation
from synergos.jobs import ParticipantRound, RoundProgress

# Called after each round with what is needed to go on from there, and the losses.
AfterRound = Callable[[Snapshot, "History"], None]
_MAX_SCHEDULE = 65_536


class History:
    """Losses by round, counted from 0.

    Attributes:
        train: mean over all training rows of the losses that the participants ended the round with.
        evaluate: mean over all `evaluate` rows, for the aggregated weights of the round; empty without such rows.
        local: participant → its own training losses in the rounds that it took part in.
        left_out: participants that missed a round.
    """

    def __init__(self, participants: Sequence[str], rounds: Sequence[RoundProgress]) -> None:
        self.train: dict[int, float] = {}
        self.evaluate: dict[int, float] = {}
        self.local: dict[str, dict[int, float]] = {name: {} for name in participants}
        self.left_out: list[str] = []
        for progress in rounds:
            self.add(progress)

    def add(self, progress: RoundProgress) -> None:
        """Take the next round."""
        index = progress.round - 1
        self.train[index] = progress.train_loss
        if progress.previous_evaluate_loss is not None:
            self.evaluate[index - 1] = progress.previous_evaluate_loss
        for name, share in progress.participants.items():
            self.local[name][index] = share.loss
        self.left_out += [name for name in progress.left_out if name not in self.left_out]


@dataclass(frozen=True)
class Outcome:
    """What a run ends with.

    Attributes:
        weights: global weights of the best round.
        local: participant → its last own weights.
        best_round: from 1: the round with the lowest loss on the `evaluate` sets, without such the last.
    """

    weights: ArrayRecord
    local: dict[str, ArrayRecord]
    history: History
    best_round: int


def run(
    grid: DirectGrid,
    snapshot: Snapshot,
    aggregation: Aggregation,
    parameters: Parameters,
    settings: Mapping[str, str],
    round_timeout: float,
    after_round: AfterRound,
) -> Outcome:
    """Train over `grid` and return what came out.

    Args:
        snapshot: where to start: the weights alone, or what a call of `after_round` was given.
        settings: texts sent with every message, `architecture` and `parameters` among them.
        round_timeout: seconds that a participant may take for one message.

    Raises:
        GridFailure: a participant failed, or too few are left; the message names who.
        Cancelled: the work was called off.
    """
    return _Run(grid, snapshot, aggregation, parameters, settings, round_timeout).go(after_round)


class _Run:
    def __init__(
        self,
        grid: DirectGrid,
        snapshot: Snapshot,
        aggregation: Aggregation,
        parameters: Parameters,
        settings: Mapping[str, str],
        round_timeout: float,
    ) -> None:
        self.grid, self.snapshot, self.aggregation, self.settings = grid, snapshot, aggregation, settings
        self.rounds, self.timeout = parameters.rounds, round_timeout
        self.needed = parameters.min_participants or len(grid.participants)
        self.history = History(list(grid.participants.values()), snapshot.rounds)
        self.best_loss = min(self.history.evaluate.values(), default=math.inf)
        self.stagnation = Stagnation(parameters.patience, parameters.delta)
        aggregation.restore(snapshot.server)
        for index in range(len(snapshot.rounds) - 1):
            self._stagnates(index)

    def go(self, after_round: AfterRound) -> Outcome:
        """Take the rounds that are left."""
        for server_round in range(len(self.snapshot.rounds) + 1, self.rounds + 1):
            kept = self._round(server_round)
            if kept is None:
                return self._outcome()
            after_round(kept, self.history)
            del kept  # may hold everybody's weights
        config = ConfigRecord({**self.settings, "server-round": self.rounds})
        self._evaluated(self.rounds, self._exchange("evaluate", config))
        return self._outcome()

    def _round(self, server_round: int) -> Snapshot | None:
        """Take a round; None if its replies show that it was one too many, else what to keep."""
        begin = time.perf_counter()
        snapshot = self.snapshot
        config = ConfigRecord({**self.settings, "evaluate": server_round > 1})
        if snapshot.schedules:
            config["schedules"] = json.dumps(snapshot.schedules)
        self.aggregation.configure(server_round, snapshot.weights, config, self.grid)
        if not self._may_stop() and self.needed == len(self.grid.participants):
            # Everybody's weights are about to be replaced, and they are the largest thing in memory.
            snapshot.local = {}
        replies = self._exchange("train", config)
        for reply in replies:
            self._check(reply)
        loss = self._evaluated(server_round - 1, replies) if server_round > 1 else None
        if server_round > 1 and self._stagnates(server_round - 2):
            return None
        local = {self._who(reply): _arrays(reply) for reply in replies}
        weights = self.aggregation.aggregate(server_round, replies, snapshot.weights)
        self._check_finite(weights, local)
        snapshot.weights, snapshot.local = weights, snapshot.local | local
        snapshot.server = self.aggregation.state
        self._take_schedules(replies)
        progress = RoundProgress(
            round=server_round,
            rounds=self.rounds,
            seconds=time.perf_counter() - begin,
            train_loss=_mean(replies, "train-loss", "num-examples"),
            previous_evaluate_loss=loss,
            participants={self._who(reply): _share(reply) for reply in replies},
            left_out=[name for name in self.grid.participants.values() if name not in local],
        )
        snapshot.rounds.append(progress)
        self.history.add(progress)
        absent = {name: own for name, own in snapshot.local.items() if name not in local}
        return replace(snapshot, local=snapshot.local if self._may_stop() else absent)

    def _exchange(self, kind: str, config: ConfigRecord) -> list[Message]:
        """Send the newest weights to all who are there; return the replies in the order of the participants."""
        content = RecordDict({"arrays": self.snapshot.weights, "config": config})
        messages = [self.grid.create_message(content, kind, node, "") for node in self.grid.get_node_ids()]
        left, lost, replies = len(messages), self.grid.absent, []
        self._check_enough(left, lost)
        for answer in self.grid.exchange(messages, self.timeout):
            if isinstance(answer, Lost):
                left, lost[answer.node_id] = left - 1, answer.error
                self._check_enough(left, lost)
            else:
                replies.append(answer)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _check_enough(self, left: int, lost: Mapping[int, Unreachable]) -> None:
        if left >= self.needed:
            return
        reasons = " ".join(f"{error.message.rstrip('.')}." for _, error in sorted(lost.items()))
        if self.needed < len(self.grid.participants):
            reasons = f"min_participants is {self.needed}, and {left} are left. {reasons}"
        raise Unreachable(reasons)

    def _evaluated(self, server_round: int, replies: Sequence[Message]) -> float | None:
        """Take the evaluation of the weights of `server_round`, which are still the newest."""
        if not any(_number(reply, "evaluate-examples") for reply in replies):
            return None
        loss = _mean(replies, "evaluate-loss", "evaluate-examples")
        if loss < self.best_loss:
            self.best_loss, self.snapshot.best = loss, self.snapshot.weights
        self.history.evaluate[server_round - 1] = loss
        return loss

    def _stagnates(self, index: int) -> bool:
        """Whether the run should have ended after round `index` (from 0)."""
        evaluate = self.history.evaluate
        if index in evaluate:
            return self.stagnation.after(evaluate[index])
        # Without the participants that have rows to evaluate, a round shows nothing.
        return not any(earlier < index for earlier in evaluate) and self.stagnation.after(self.history.train[index])

    def _may_stop(self) -> bool:
        return copy.copy(self.stagnation).after(math.inf)

    def _outcome(self) -> Outcome:
        losses = self.history.evaluate
        best_round = min(losses, key=losses.__getitem__) + 1 if losses else len(self.snapshot.rounds)
        local = {name: self.snapshot.local[name] for name in self.history.local if name in self.snapshot.local}
        return Outcome(self.snapshot.best or self.snapshot.weights, local, self.history, best_round)

    def _take_schedules(self, replies: Sequence[Message]) -> None:
        for reply in replies:
            config = reply.content.get("config")
            state = config.get("schedule") if isinstance(config, ConfigRecord) else None
            if state is None:
                continue
            try:
                if not isinstance(state, str) or len(state) > _MAX_SCHEDULE:
                    raise ValueError
                self.snapshot.schedules[str(reply.metadata.src_node_id)] = json.loads(state)
            except (ValueError, RecursionError):
                raise GridFailure(f"Participant {self._who(reply)} gave an unusable state of its schedule.") from None

    def _who(self, reply: Message) -> str:
        return self.grid.name(reply.metadata.src_node_id)

    def _check(self, reply: Message) -> None:
        """Make sure that the weights of a reply fit the model, whatever the participant says they are."""
        record, weights = reply.content.get("arrays"), self.snapshot.weights
        if not isinstance(record, ArrayRecord) or record.keys() != weights.keys():
            raise GridFailure(f"Participant {self._who(reply)} gave no weights of this model.")
        for name, array in record.items():
            if array.shape != weights[name].shape or array.dtype != weights[name].dtype:
                raise GridFailure(f"Participant {self._who(reply)} gave weights {name} of another shape or type.")
        if _number(reply, "num-examples") < 1 or not math.isfinite(_number(reply, "train-loss")):
            raise GridFailure(f"Participant {self._who(reply)} gave no usable number of rows or loss.")

    def _check_finite(self, weights: ArrayRecord, local: Mapping[str, ArrayRecord]) -> None:
        # One bad number anywhere shows in the average, so that in a sound round only that is looked at.
        for name, array in weights.items():
            if not np.isfinite(array.numpy()).all():
                guilty = [who for who, own in local.items() if not np.isfinite(own[name].numpy()).all()]
                raise GridFailure(
                    f"The weights {name} of {', '.join(guilty) or 'all together'} are no longer finite: "
                    "lower lr (or max_lr), or check the data for extreme values."
                )


def query(
    grid: DirectGrid, weights: ArrayRecord, settings: Mapping[str, str], meta: str, timeout: float
) -> dict[str, str]:
    """Have every participant run the model on its set `meta`; return participant → its JSON answer."""
    content = RecordDict({"arrays": weights, "config": ConfigRecord({**settings, "meta": meta})})
    for error in grid.absent.values():
        raise error
    messages = [grid.create_message(content, "query", node, "") for node in grid.participants]
    answers: dict[str, str] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        name = grid.name(reply.metadata.src_node_id)
        config = reply.content.get("config")
        if not isinstance(config, ConfigRecord) or not isinstance(config.get("result"), str):
            raise GridFailure(f"Participant {name} gave no result.")
        answers[name] = str(config["result"])
    return answers


def _arrays(reply: Message) -> ArrayRecord:
    record = reply.content["arrays"]
    assert isinstance(record, ArrayRecord)
    return record


def _share(reply: Message) -> ParticipantRound:
    return ParticipantRound(
        loss=_number(reply, "train-loss"), rows=int(_number(reply, "num-examples")), seconds=_number(reply, "seconds")
    )


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
