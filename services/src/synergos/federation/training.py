"""One participant's part of a round: local epochs, evaluation and inference, a batch in memory at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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

# Rows, and values between the layers, that go through a model at once: more are taken in pieces. A gradient over a
# batch is the sum of its pieces'.
_ROWS = 8192
_VALUES = 2**23
# Dropout draws from torch's global generator: whoever seeds it must have it alone.
_generator_lock = threading.Lock()


@dataclass(frozen=True)
class Labelled:
    """Rows with labels in the form of one objective.

    Attributes:
        X: as in `sessions.Split`, the same memory or file.
        target: labels, see `Objective.target`.
        weight: shape (rows,), see `Objective.weight`.
    """

    X: NDArray[Any]
    target: Tensor
    weight: Tensor | None

    @classmethod
    def of(cls, split: Split, objective: Objective, meta: str) -> Labelled:
        """Return the rows of `split` for `objective`; raises `Invalid` without labels."""
        if split.y is None:
            raise Invalid(f"The {meta} set has no labels.")
        y = as_tensor(split.y)
        return cls(split.X, objective.target(y), objective.weight(y))

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: slice | Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features, target and weight of some rows on `device`."""
        weight = None if self.weight is None else self.weight[rows].to(device)
        return features(self.X, rows, device), self.target[rows].to(device), weight


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


def device() -> torch.device:
    """Return where models are computed: the first graphics card that torch sees, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def features(X: NDArray[Any], rows: slice | Tensor, device: torch.device) -> Tensor:
    """Return some rows of `X` as a model sees them: float32, the bytes of an image divided by 255."""
    part = as_tensor(X[rows if isinstance(rows, slice) else rows.numpy()]).to(device)
    return part.float().div_(255) if part.dtype == torch.uint8 else part


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
    schedule: Mapping[str, float] | None = None,
) -> tuple[float, dict[str, float] | None]:
    """Train `network`, which holds the global weights, for one round.

    The optimiser minimises criterion + mu/2 * |w - w_global|^2 + l1_lambda * |w|_1 + l2_lambda/2 * |w|^2. If the loss
    stagnates before the last epoch, `network` gets the weights that ended the epoch with the lowest loss.

    Args:
        mu: weight of the proximal term.
        is_open: asked before every step; False ends the work.
        schedule: what this participant's round before returned as its second value.

    Returns:
        Mean criterion per row over the epoch whose weights the network holds, and the schedule's state for the next
        round.

    Raises:
        Invalid: the loss is no longer a finite number.
        NotFound: the session was closed meanwhile.
    """
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    reference = [weight.detach().clone() for weight in weights] if mu else []
    optimizer = parameters.make_optimizer(weights)
    sizes = _batch_sizes(len(data), parameters.batch_size, network.needs_rows)
    rates = parameters.make_schedule(optimizer, turn.server_round, len(sizes))
    if schedule:
        rates.restore(schedule)
    stop = Stagnation(parameters.patience, parameters.delta)
    # Only a run with more epochs than that can stagnate before its end.
    best = _Best(network) if parameters.epochs > parameters.patience + 2 else None
    loss, seed = math.nan, turn.seed(parameters.seed)
    where = _device_of(network)
    piece = max(sizes) if network.needs_rows else _piece(network)
    with _generator_lock:
        # Not torch.manual_seed: it also looks for graphics cards, which takes longer than a small epoch.
        torch.default_generator.manual_seed(seed)
        if where.type == "cuda":
            torch.cuda.manual_seed(seed)
            torch.backends.cudnn.deterministic = True
        shuffle = torch.Generator().manual_seed(seed)
        network.train()
        for epoch in range(parameters.epochs):
            total = torch.zeros((), device=where)
            for pieces in _batches(len(data), sizes, piece, shuffle):
                for parameter in weights:
                    parameter.grad = None  # as `zero_grad` does, which looks for profilers and compilers first
                rows = sum(size for _, size in pieces)
                for picked, size in pieces:
                    if not is_open():
                        raise NotFound("The session was closed during training.")
                    X, target, weight = data.take(picked, where)
                    piece_loss = objective.loss(network.raw(X), target, weight)
                    if size < rows:
                        piece_loss = piece_loss * objective.share(size, rows)
                    piece_loss.backward()  # type: ignore[no-untyped-call]
                    total += objective.per_row(1.0, rows) * rows * piece_loss.detach()
                with torch.no_grad():
                    _regularise(weights, reference, mu, parameters.l1_lambda, parameters.l2_lambda)
                optimizer.step()
                rates.after_step()
            loss = total.item() / len(data)
            if not math.isfinite(loss):
                raise Invalid(
                    f"The loss became {loss} in round {turn.server_round}, epoch {epoch + 1}: "
                    "lower lr (or max_lr), or check the data for extreme values."
                )
            rates.after_epoch(loss)
            if best:
                best.after(loss)
            if stop.after(loss):
                if best:
                    loss = best.restore()
                break
    return loss, rates.state


def evaluate(network: Network, data: Labelled, objective: Objective) -> float:
    """Return the mean criterion per row of `data`; no regularisation. Raises `Invalid` if it is not finite."""
    total = 0.0
    network.eval()
    with torch.inference_mode():
        for rows, size in _slices(len(data), _piece(network)):
            X, target, weight = data.take(rows, _device_of(network))
            total += objective.per_row(objective.loss(network.raw(X), target, weight).item(), size) * size
    loss = total / len(data)
    if not math.isfinite(loss):
        raise Invalid(f"The loss on the evaluate set is {loss}: lower lr (or max_lr), or check the data.")
    return loss


def infer(network: Network, X: NDArray[Any], objective: Objective) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return predictions (rows,) and scores (rows, 1 or classes) as `sessions.Session.record` takes them."""
    network.eval()
    where = _device_of(network)
    with torch.inference_mode():
        parts = (features(X, rows, where) for rows, _ in _slices(len(X), _piece(network)))
        scores = torch.cat([objective.scores(network.raw(part)) for part in parts]).cpu()
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


class _Best:
    """The weights and buffers of the best epoch so far."""

    def __init__(self, network: Network) -> None:
        self._live = [*network.parameters(), *network.buffers()]
        self._kept: list[Tensor] = []
        self._loss = math.inf

    def after(self, loss: float) -> None:
        """Keep what the network holds if no epoch had a lower `loss`."""
        if loss >= self._loss:
            return
        self._loss = loss
        with torch.no_grad():
            if not self._kept:
                self._kept = [value.detach().clone() for value in self._live]
            for kept, value in zip(self._kept, self._live, strict=True):
                kept.copy_(value)

    def restore(self) -> float:
        """Put the kept weights back and return their loss."""
        with torch.no_grad():
            for kept, value in zip(self._kept, self._live, strict=True):
                value.copy_(kept)
        return self._loss


def to_record(network: Network, *, copy: bool = True) -> ArrayRecord:
    """Return the weights and buffers of `network`.

    Args:
        copy: False where they are written out before the network changes.
    """
    record = ArrayRecord()
    for name, value in network.state_dict().items():
        record[name] = codec.to_array(value.cpu().numpy(), copy=copy)
    return record


def load_record(network: Network, record: ArrayRecord) -> None:
    """Put weights into `network`. Raises `Invalid` if names, shapes or types are not the network's own."""
    own = network.state_dict()
    if own.keys() != record.keys():
        raise Invalid(f"Weights do not belong to this model: {', '.join(sorted(own.keys() ^ record.keys()))}.")
    for name, tensor in own.items():
        array, here = record[name].numpy(), tensor.cpu().numpy()
        if array.shape != here.shape or array.dtype != here.dtype:
            raise Invalid(f"Weights {name} are {array.dtype}{array.shape}, the model has {here.dtype}{here.shape}.")
        here[...] = array
        if tensor.is_cuda:  # `here` is a copy then
            tensor.copy_(torch.from_numpy(here))


def _device_of(network: Network) -> torch.device:
    return next(network.parameters()).device


def _piece(network: Network) -> int:
    """Return how many rows may go through `network` at once."""
    return max(1, min(_ROWS, _VALUES // max(1, network.footprint)))


def _batch_sizes(rows: int, batch_size: int | None, needs_rows: bool) -> list[int]:
    size = min(batch_size or rows, rows)
    if needs_rows and size == 1:
        raise Invalid("Batch normalisation needs batches of two rows or more: raise batch_size, or use LayerNorm.")
    sizes = [size] * (rows // size) + ([rows % size] if rows % size else [])
    # Batch normalisation has no variance to divide by in a batch of one.
    if needs_rows and len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [size + 1]
    return sizes


def _batches(
    rows: int, sizes: list[int], piece: int, shuffle: torch.Generator
) -> Iterator[Sequence[tuple[slice | Tensor, int]]]:
    """Yield the batches of an epoch, each as pieces of at most `piece` rows: which rows, and how many."""
    if len(sizes) == 1:
        yield _slices(rows, piece)
        return
    for batch in torch.split(torch.randperm(rows, generator=shuffle), sizes):
        yield [(part, len(part)) for part in torch.split(batch, piece)]


def _slices(rows: int, piece: int) -> list[tuple[slice | Tensor, int]]:
    return [(slice(at, min(at + piece, rows)), min(piece, rows - at)) for at in range(0, rows, piece)]


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
