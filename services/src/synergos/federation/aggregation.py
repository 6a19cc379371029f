"""From the participants' weights to the next global ones: Flower's strategies, each given what it can work with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from synergos.errors import GridFailure, Invalid
from synergos.federation import algorithms, codec
from synergos.federation.grid import DirectGrid
from synergos.federation.parameters import Parameters

# Flower narrates each round in a dozen lines; the run's own record is the progress.
logging.getLogger("flwr").setLevel(logging.ERROR)

# The messages are ours, so no strategy chooses nodes; the losses' means are taken elsewhere.
_OPTIONS: dict[str, Any] = {"fraction_train": 0.0, "train_metrics_aggr_fn": lambda *_: MetricRecord()}
_MEAN, _ROBUST = (
    frozenset({"FedAvg", "FedProx"}),
    frozenset({"FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"}),
)
# What a strategy remembers from round to round, by array name.
_MEMORY = ("momentum_vector", "m_t", "v_t")
_BLOCK = 2**16

State = dict[str, dict[str, NDArray[Any]]]


class _Share(ArrayRecord):
    """Arrays for a strategy that takes them out and computes in place.

    Flower would collect garbage for each record, which takes longer than a round of a small model.
    """

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[NDArray[Any]]:
        return [array.numpy() if keep_input else array.numpy().copy() for array in self.values()]


class Aggregation:
    """The server's part of one algorithm.

    Means and robust statistics take everything a model consists of. Server optimisers take the trained weights: running
    means and variances follow no gradient, and a step beyond them could make a variance negative, so they are averaged.
    Whole numbers (counters) are averaged and rounded; a robust algorithm takes their median.

    Args:
        parameters: of the run.
        participants: how many there are.
        least: how many at least take part in each round.
        trained: names of the weights that are trained; the others are buffers.
        weights: of the model.

    Raises:
        Invalid: the algorithm's parameters, participants or model do not fit together.
    """

    def __init__(
        self, parameters: Parameters, participants: int, least: int, trained: frozenset[str], weights: ArrayRecord
    ) -> None:
        settings = algorithms.read(parameters.algorithm, parameters.model_extra or {}, least)
        self._algorithm = parameters.algorithm
        self._private = isinstance(settings, algorithms.Averaging) and settings.clipping_norm is not None
        if self._private and (buffers := [name for name in weights if name not in trained]):
            raise Invalid(
                f"clipping_norm does not go together with {buffers[0]}, which tells of the rows and cannot be clipped: "
                "replace batch normalisation by GroupNorm or LayerNorm."
            )
        self._strategy = _strategy(parameters, settings, participants)
        if self._algorithm in _MEAN:
            self._names = list(weights)
        elif self._algorithm in _ROBUST:
            self._names = [name for name, array in weights.items() if np.dtype(array.dtype).kind == "f"]
        else:
            self._names = [name for name in weights if name in trained]
        self._others = [name for name in weights if name not in set(self._names)]
        self._plain = flower.FedMedian(**_OPTIONS) if self._algorithm in _ROBUST else flower.FedAvg(**_OPTIONS)

    def configure(self, server_round: int, weights: ArrayRecord, config: ConfigRecord, grid: DirectGrid) -> None:
        """Take note of the weights that a round starts from, and add the algorithm's settings to its messages."""
        config["server-round"] = server_round
        self._strategy.configure_train(server_round, _pick(weights, self._names), config, grid)

    def aggregate(self, server_round: int, replies: Sequence[Message], weights: ArrayRecord) -> ArrayRecord:
        """Return the new global weights.

        Args:
            replies: with `arrays`, `num-examples` and `train-loss`, all checked.
            weights: that the round started from.

        Raises:
            GridFailure: the algorithm cannot work with what the participants gave.
        """
        if isinstance(self._strategy, flower.DifferentialPrivacyServerSideFixedClipping):
            self._strategy.num_sampled_clients = len(replies)
        if self._algorithm == "QFedAvg" and (who := [_loss(reply) for reply in replies if _loss(reply) < 0]):
            raise GridFailure(
                f"QFedAvg weighs by losses, and one is {who[0]}: take a criterion that is never negative."
            )
        if type(self._strategy) in (flower.FedAvg, flower.FedProx):
            return _as_before(_mean(replies), weights)
        try:
            result = _aggregate(self._strategy, server_round, [self._share(reply, self._names) for reply in replies])
        except ZeroDivisionError:
            raise GridFailure("An update is zero and cannot be clipped: raise lr or epochs.") from None
        arrays = dict(result)  # the strategy may keep the record
        if self._others:
            arrays |= _aggregate(self._plain, server_round, [self._share(reply, self._others) for reply in replies])
        return _as_before(arrays, weights)

    @property
    def state(self) -> State:
        """What the algorithm has to remember until the next round: attribute of the strategy -> name -> array."""
        found: State = {}
        for attribute in _MEMORY:
            if (value := getattr(self._strategy, attribute, None)) is not None:
                found[attribute] = value if isinstance(value, dict) else dict(zip(self._names, value, strict=True))
        return found

    def restore(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Continue from a `state`."""
        for attribute, arrays in state.items():
            values = {name: array.copy() for name, array in arrays.items()}
            setattr(self._strategy, attribute, list(values.values()) if attribute == "momentum_vector" else values)

    def _share(self, reply: Message, names: list[str]) -> Message:
        """Return the reply with nothing but these arrays and what weighs them: strategies empty what they read."""
        arrays = _pick(reply.content["arrays"], names)  # type: ignore[arg-type]
        # The noise is measured for a mean in which nobody counts more than others.
        rows = 1 if self._private else _metric(reply, "num-examples")
        metrics = MetricRecord({"num-examples": rows, "train-loss": _loss(reply)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=reply)


def _strategy(parameters: Parameters, settings: algorithms.Settings, participants: int) -> flower.Strategy:
    values = settings.model_dump()
    norm, noise = values.pop("clipping_norm", None), values.pop("noise_multiplier", None)
    if "cut_fraction" in values:
        values["beta"] = values.pop("cut_fraction")
    if isinstance(settings, algorithms.MultiKrum) and settings.num_nodes_to_select is None:
        values["num_nodes_to_select"] = participants - settings.num_malicious_nodes
    if isinstance(settings, algorithms.QFedAvg):
        values |= {
            "client_learning_rate": settings.client_learning_rate or parameters.lr,
            "train_loss_key": "train-loss",
        }
    if parameters.algorithm == "FedProx":
        values["proximal_mu"] = parameters.mu
    make: Callable[..., flower.Strategy] = getattr(flower, parameters.algorithm)
    strategy = make(**_OPTIONS, **values)
    if norm is None:
        return strategy
    return flower.DifferentialPrivacyServerSideFixedClipping(strategy, noise, norm, participants)


def _aggregate(strategy: flower.Strategy, server_round: int, replies: list[Message]) -> ArrayRecord:
    arrays, _ = strategy.aggregate_train(server_round, replies)
    if arrays is None:
        raise GridFailure(f"Flower's {type(strategy).__name__} gave no weights in round {server_round}.")
    return arrays


def _mean(replies: Sequence[Message]) -> dict[str, Array]:
    """Return what Flower's FedAvg does, to the bit, but block by block: large models do not fit into a cache."""
    rows = [_metric(reply, "num-examples") for reply in replies]
    total = sum(rows)
    records: list[ArrayRecord] = [reply.content["arrays"] for reply in replies]  # type: ignore[misc]
    result = {}
    for name, first in records[0].items():
        parts = [record[name].numpy().reshape(-1) for record in records]
        mean = np.empty(parts[0].shape, np.result_type(parts[0].dtype, 1.0))
        for at in range(0, len(mean), _BLOCK):
            block = slice(at, at + _BLOCK)
            for index, (part, share) in enumerate(zip(parts, rows, strict=True)):
                if index:
                    mean[block] += part[block] * (share / total)
                else:
                    np.multiply(part[block], share / total, out=mean[block])
        result[name] = codec.to_array(mean.reshape(first.shape), copy=False)
    return result


def _pick(arrays: ArrayRecord, names: list[str]) -> ArrayRecord:
    picked = _Share()
    for name in names:
        picked[name] = arrays[name]
    return picked


def _metric(reply: Message, key: str) -> int | float:
    value = reply.content["metrics"][key]
    assert isinstance(value, (int, float))
    return value


def _loss(reply: Message) -> float:
    return float(_metric(reply, "train-loss"))


def _as_before(arrays: Mapping[str, Array], reference: ArrayRecord) -> ArrayRecord:
    """Return `arrays` in the order and the element types of `reference`; whole numbers are rounded."""
    result = ArrayRecord()
    for name, before in reference.items():
        array = arrays[name]
        if array.dtype != before.dtype:
            values = array.numpy()
            values = np.rint(values) if np.dtype(before.dtype).kind in "iu" else values
            array = codec.to_array(np.asarray(values, dtype=before.dtype), copy=False)
        result[name] = codec.plain(array)
    return result
