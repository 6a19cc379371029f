"""One participant's part of a round: local epochs, evaluation and inference, all on tensors in memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from synergos.errors import Invalid, NotFound
from synergos.federation import codec
from synergos.federation.layers import Network
from synergos.federation.objectives import Objective
from synergos.federation.parameters import Parameters
from synergos.federation.sessions import Split

# Rows that go through a model at once where no gradient is kept.
_CHUNK = 8192
# Dropout draws from torch's global generator: whoever seeds it must have it alone.
_generator_lock = threading.Lock()


@dataclass(frozen=True)
class Labelled:
    """Rows with labels in the form of one objective."""

    X: Tensor
    target: Tensor

    @classmethod
    def of(cls, split: Split, objective: Objective, meta: str) -> Labelled:
        """Return the tensors of `split`, sharing its memory where possible; raises `Invalid` without labels."""
        if split.y is None:
            raise Invalid(f"The {meta} set has no labels.")
        return cls(as_tensor(split.X), objective.target(as_tensor(split.y)))

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True)
class Turn:
    """Whose turn it is: seeds everything random, so that a repeated turn gives the same weights.

    Attributes:
        participant: position among the run's participants, from 1.
        server_round: from 1.
    """

    participant: int
    server_round: int

    def seed(self, run_seed: int) -> int:
        """Return a seed that no other turn of the run shares."""
        words = np.random.SeedSequence([run_seed, self.participant, self.server_round]).generate_state(2, np.uint32)
        return int(words[0]) << 31 | int(words[1]) >> 1


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return `array` as a tensor that shares its memory, or a copy of a read-only array."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def fit(
    network: Network,
    data: Labelled,
    parameters: Parameters,
    objective: Objective,
    turn: Turn,
    *,
    mu: float,
    is_open: Callable[[], bool],
    plateau: dict[str, Any] | None = None,
) -> tuple[float, dict[str, Any] | None]:
    """Train `network`, which holds the global weights, for one round.

    The optimiser minimises criterion + mu/2 * |w - w_global|^2 + l1_lambda * |w|_1 + l2_lambda/2 * |w|^2.

    Args:
        mu: weight of the proximal term.
        is_open: asked before every step; False ends the work.
        plateau: what the round before returned as its second value.

    Returns:
        Mean criterion per row over the last epoch, and the schedule's state for the next round.

    Raises:
        Invalid: the loss is no longer a finite number.
        NotFound: the session was closed meanwhile.
    """
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    reference = [weight.detach().clone() for weight in weights] if mu else []
    optimizer = parameters.make_optimizer(weights)
    sizes = _batch_sizes(len(data), parameters.batch_size, network.needs_rows)
    schedule = parameters.make_schedule(optimizer, turn.server_round, len(sizes))
    if plateau:
        schedule.restore(plateau)
    stop = Stagnation(parameters.patience, parameters.delta)
    loss, seed = math.nan, turn.seed(parameters.seed)
    with _generator_lock:
        # Not torch.manual_seed: it also looks for graphics cards, which takes longer than a small epoch.
        torch.default_generator.manual_seed(seed)
        shuffle = torch.Generator().manual_seed(seed)
        network.train()
        for epoch in range(parameters.epochs):
            total = torch.zeros(())
            for X, target in _batches(data, sizes, shuffle):
                if not is_open():
                    raise NotFound("The session was closed during training.")
                optimizer.zero_grad()
                batch_loss = objective.loss(network.raw(X), target)
                batch_loss.backward()  # type: ignore[no-untyped-call]
                with torch.no_grad():
                    _regularise(weights, reference, mu, parameters.l1_lambda, parameters.l2_lambda)
                optimizer.step()
                schedule.after_step()
                total += objective.per_row(1.0, len(X)) * len(X) * batch_loss.detach()
            loss = total.item() / len(data)
            if not math.isfinite(loss):
                raise Invalid(
                    f"The loss became {loss} in round {turn.server_round}, epoch {epoch + 1}: "
                    "lower lr (or max_lr), or check the data for extreme values."
                )
            schedule.after_epoch(loss)
            if stop.after(loss):
                break
    return loss, schedule.state


def evaluate(network: Network, data: Labelled, objective: Objective) -> float:
    """Return the mean criterion per row of `data`; no regularisation. Raises `Invalid` if it is not finite."""
    total = 0.0
    network.eval()
    with torch.inference_mode():
        for X, target in zip(torch.split(data.X, _CHUNK), torch.split(data.target, _CHUNK), strict=True):
            total += objective.per_row(objective.loss(network.raw(X), target).item(), len(X)) * len(X)
    loss = total / len(data)
    if not math.isfinite(loss):
        raise Invalid(f"The loss on the evaluate set is {loss}: lower lr (or max_lr), or check the data.")
    return loss


def infer(network: Network, X: NDArray[np.float32], objective: Objective) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return predictions (rows,) and scores (rows, 1 or classes) as `sessions.Session.record` takes them."""
    network.eval()
    with torch.inference_mode():
        scores = torch.cat([objective.scores(network.raw(part)) for part in torch.split(as_tensor(X), _CHUNK)])
        decisions = objective.decide(scores)
    # Two outputs are two classes, whose score is that of class 1.
    return decisions.numpy(), (scores[:, 1:] if scores.shape[1] == 2 else scores).numpy()


class Stagnation:
    """Counts values that are not at least `delta` below the best one: more than `patience` in a row are too many."""

    def __init__(self, patience: int, delta: float) -> None:
        self._patience, self._delta = patience, delta
        self._best, self._count = math.inf, 0

    def after(self, value: float) -> bool:
        """Take the next value; True if it is time to stop."""
        if value < self._best - self._delta:
            self._best, self._count = value, 0
        else:
            self._count += 1
        return self._count > self._patience


def to_record(network: Network) -> ArrayRecord:
    """Return the weights and buffers of `network`."""
    record = ArrayRecord()
    for name, value in network.state_dict().items():
        record[name] = codec.to_array(value.numpy())
    return record


def load_record(network: Network, record: ArrayRecord) -> None:
    """Put weights into `network`. Raises `Invalid` if names, shapes or types are not the network's own."""
    own = network.state_dict()
    if own.keys() != record.keys():
        raise Invalid(f"Weights do not belong to this model: {', '.join(sorted(own.keys() ^ record.keys()))}.")
    for name, tensor in own.items():
        array, here = record[name].numpy(), tensor.numpy()
        if array.shape != here.shape or array.dtype != here.dtype:
            raise Invalid(f"Weights {name} are {array.dtype}{array.shape}, the model has {here.dtype}{here.shape}.")
        here[...] = array


def _batch_sizes(rows: int, batch_size: int | None, needs_rows: bool) -> list[int]:
    size = min(batch_size or rows, rows)
    sizes = [size] * (rows // size) + ([rows % size] if rows % size else [])
    # Batch normalisation has no variance to divide by in a batch of one.
    if needs_rows and len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [size + 1]
    return sizes


def _batches(data: Labelled, sizes: list[int], shuffle: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    if len(sizes) == 1:
        yield data.X, data.target
        return
    for rows in torch.split(torch.randperm(len(data), generator=shuffle), sizes):
        yield data.X[rows], data.target[rows]


def _regularise(weights: list[Any], reference: list[Tensor], mu: float, l1: float, l2: float) -> None:
    # The gradients of the penalty terms, added directly: cheaper than to build the terms and derive them.
    for weight, old in zip(weights, reference or weights, strict=True):
        if weight.grad is None:
            continue
        if mu:
            weight.grad.add_(weight - old, alpha=mu)
        if l1:
            weight.grad.add_(weight.sign(), alpha=l1)
        if l2:
            weight.grad.add_(weight, alpha=l2)
