"""Criterions: how the outputs of a model become a loss, scores and decisions.

Each criterion of torch expects its own form of outputs and labels. Users pair them freely (`NLLLoss` behind a softmax,
`BCELoss` with three classes), so a criterion is not applied to whatever the model gives: it says which form it needs,
and outputs and labels are brought into that form, or the pair is refused with the fix.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synergos.errors import Invalid
from synergos.federation.layers import ACTIVATIONS, OVER_CLASSES, TORCH_ERRORS
from synergos.jobs import Action

# value: the outputs themselves against 0/1 (or the regression target)
# probability: as value, but only outputs between 0 and 1
# distance: as value, non-negative outputs; class 1 is "far"
# logit: one yes/no decision per output, before sigmoid or softmax
# choice: one decision between all classes, before softmax; a single output z stands for the two logits (0, z)
Form = Literal["value", "probability", "distance", "logit", "choice"]

CRITERIONS: dict[str, tuple[type[nn.Module], Form, tuple[Action, ...]]] = {
    "L1Loss": (nn.L1Loss, "value", ("regress", "classify")),
    "MSELoss": (nn.MSELoss, "value", ("regress", "classify")),
    "SmoothL1Loss": (nn.SmoothL1Loss, "value", ("regress", "classify")),
    "HuberLoss": (nn.HuberLoss, "value", ("regress", "classify")),
    "PoissonNLLLoss": (nn.PoissonNLLLoss, "value", ("regress",)),
    "BCELoss": (nn.BCELoss, "probability", ("classify",)),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, "logit", ("classify",)),
    "SoftMarginLoss": (nn.SoftMarginLoss, "logit", ("classify",)),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, "logit", ("classify",)),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, "choice", ("classify",)),
    "NLLLoss": (nn.NLLLoss, "choice", ("classify",)),
    "KLDivLoss": (nn.KLDivLoss, "choice", ("classify",)),
    "MultiMarginLoss": (nn.MultiMarginLoss, "choice", ("classify",)),
    "HingeEmbeddingLoss": (nn.HingeEmbeddingLoss, "distance", ("classify",)),
}
_SEVERAL = "it compares several inputs with each other, and a model here has one per row"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("CosineEmbeddingLoss", "MarginRankingLoss", "TripletMarginLoss"), _SEVERAL),
    "TripletMarginWithDistanceLoss": _SEVERAL,
    "CTCLoss": "it compares sequences, and a row here has one label",
    "GaussianNLLLoss": "it needs a variance beside each output; MSELoss takes it as constant",
    "MultiLabelMarginLoss": "it takes rows of several classes; MultiMarginLoss takes rows of one",
    "NLLLoss2d": "NLLLoss is its name today",
    "AdaptiveLogSoftmaxWithLoss": "it is a layer of its own; CrossEntropyLoss behind a Linear layer does the same",
}
# Arguments of torch's constructors that are deprecated, would need a tensor, or leave rows out.
_WITHHELD = frozenset({"size_average", "reduce", "weight", "pos_weight", "ignore_index"})
_PROBABILITY = frozenset({"sigmoid", "softmax", "softmin", "hardsigmoid"})
_ONE_SIDED = frozenset({"relu", "relu6", "softplus"})
_NON_POSITIVE = frozenset({"logsigmoid", "log_softmax"})
# Flat around 0, where the outputs of a fresh model lie.
_FLAT = frozenset({"hardshrink", "softshrink"})
# Activations that turn logits into (log-)probabilities: taken away where logits are asked for.
_LINKS = _PROBABILITY | _NON_POSITIVE
# Whether it is KLDivLoss -> what its reduction may be.
_REDUCTIONS = {False: ("mean", "sum"), True: ("batchmean", "mean", "sum")}


@functools.cache
def criterion_arguments(name: str) -> frozenset[str]:
    """Return the run parameters that criterion `name` takes."""
    return frozenset(inspect.signature(CRITERIONS[name][0]).parameters) - _WITHHELD


class Objective:
    """A criterion fitted to one model.

    Args:
        name: criterion, a key of `CRITERIONS`.
        arguments: its own arguments, such as `reduction`.
        action: what the project does.
        final: the model's final activation.
        width: number of outputs of the model.
        class_weights: weight of each class, in the order of the class indexes; None for equal ones. The mean over rows
            stays a mean over rows (torch divides by the sum of the batch's weights instead, so that weights are lost
            where a participant, or a batch, holds a single class).

    Raises `Invalid` if criterion, activation, outputs and action cannot work together.
    """

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        action: Action,
        final: str,
        width: int,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        factory, self._form, actions = CRITERIONS[name]
        if action not in actions:
            fitting = ", ".join(key for key, entry in CRITERIONS.items() if action in entry[2])
            raise Invalid(f"{name} does not fit a project that does {action}. Fitting criterions: {fitting}.")
        if name == "KLDivLoss":
            # torch's default divides by rows and classes.
            arguments = {"reduction": "batchmean", **arguments}
        if arguments.get("reduction") == "none":
            raise Invalid("reduction 'none' gives one loss per row, which cannot be minimised: use 'mean' or 'sum'.")
        if (reduction := arguments.get("reduction", "mean")) not in _REDUCTIONS[name == "KLDivLoss"]:
            known = ", ".join(_REDUCTIONS[name == "KLDivLoss"])
            raise Invalid(f"criterion {name}: reduction {reduction!r} is unknown; known: {known}.")
        try:
            self._criterion = factory(**{**arguments, "reduction": "none"} if class_weights else arguments)
        except TORCH_ERRORS as error:
            raise Invalid(f"criterion {name}: {error}") from None
        self._name, self._action, self._final, self._width = name, action, final, width
        self._weights = torch.tensor(class_weights) if class_weights else None
        # Over the classes of a row: summed where a batch is, and by KLDivLoss.
        self._sums_classes = reduction in ("sum", "batchmean")
        self._logits = self._form in ("logit", "choice")
        self._log_input = name == "PoissonNLLLoss" and bool(arguments.get("log_input", True))
        self._sums = reduction == "sum"
        self._non_negative = final in _PROBABILITY | _ONE_SIDED
        self._check()

    def target(self, y: Tensor) -> Tensor:
        """Return labels (session form, see `sessions.Split`) in the form that `loss` takes."""
        if self._action == "regress":
            return y
        index = _index(y)
        if len(index) and int(index.max()) >= max(2, self._width):
            raise Invalid(
                f"The labels hold class {int(index.max())} and the model has {self._width} outputs: "
                "align with auto_fix, or give the last layer one output per class."
            )
        if self._form == "choice" and self._name != "KLDivLoss":
            return index
        if self._width == 1 and self._form != "choice":
            one_hot = index.unsqueeze(1).float()
        else:
            one_hot = F.one_hot(index, max(2, self._width)).float()
        if self._name == "SoftMarginLoss":
            return 2 * one_hot - 1
        if self._name == "HingeEmbeddingLoss":
            return one_hot.mul(-2).add(1)
        return one_hot

    def weight(self, y: Tensor) -> Tensor | None:
        """Return the weight of each row, shape (rows,), by the class that its label `y` names; None for equal ones."""
        return None if self._weights is None else self._weights[_index(y)]

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the scalar loss of `raw` outputs (before the final activation), with the rows' `weight` if any."""
        if self._form == "choice":
            outputs = self._both(self._strip(raw))
            if self._name in ("NLLLoss", "KLDivLoss"):
                outputs = F.log_softmax(outputs, dim=1)
        elif self._form == "logit":
            outputs = self._strip(raw)
        else:
            outputs = ACTIVATIONS[self._final](raw)
        try:
            loss: Tensor = self._criterion(outputs, target)
            if weight is not None:
                if loss.dim() == 2:
                    loss = loss.sum(dim=1) if self._sums_classes else loss.mean(dim=1)
                loss = (loss * weight).sum() if self._sums else (loss * weight).mean()
        except RuntimeError:
            # BCELoss refuses what is not a number; the callers report a loss that is none.
            if bool(torch.isfinite(outputs).all()):
                raise
            loss = outputs.sum()
        return loss

    def per_row(self, loss: float, rows: int) -> float:
        """Return the mean loss per row from the loss of a batch of `rows`."""
        return loss / rows if self._sums else loss

    def share(self, rows: int, batch: int) -> float:
        """Return what part of a batch's loss the loss of `rows` of its `batch` rows is."""
        return 1.0 if self._sums else rows / batch

    def scores(self, raw: Tensor) -> Tensor:
        """Return values or the score of class 1, shape (rows, 1), or one score per class, shape (rows, classes)."""
        if self._action == "regress":
            outputs = ACTIVATIONS[self._final](raw)
            return outputs.exp() if self._log_input else outputs
        if not self._logits:
            return ACTIVATIONS[self._final](raw)
        logits = self._strip(raw)
        if self._width == 1 or (self._form == "logit" and self._final not in OVER_CLASSES):
            return torch.sigmoid(logits)
        return F.softmax(logits, dim=1)

    def decide(self, scores: Tensor) -> Tensor:
        """Return predictions (rows,): values, or class indexes (int64)."""
        if self._action == "regress":
            return scores.squeeze(1)
        if self._width == 1:
            return (scores.squeeze(1) > 0.5).long()
        return scores.argmax(dim=1)

    def _strip(self, raw: Tensor) -> Tensor:
        if self._final == "softmin":
            return -raw
        return raw if self._final in _LINKS else ACTIVATIONS[self._final](raw)

    def _both(self, logits: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(logits), logits), dim=1) if self._width == 1 else logits

    def _check(self) -> None:
        name, final, width = self._name, self._final or "none", self._width
        if self._action == "regress" and width != 1:
            raise Invalid(f"A regression model needs one output; this one has {width}. Align with auto_fix.")
        if self._final in _FLAT:
            raise Invalid(
                f"The last activation {final} is 0 for small outputs, which then cannot learn: "
                "use no activation for the last layer."
            )
        if self._weights is not None and self._action == "regress":
            raise Invalid("class_weights weigh classes, and a regression has none: leave them away.")
        if self._weights is not None and len(self._weights) != max(2, width):
            raise Invalid(
                f"class_weights has {len(self._weights)} values and the model tells {max(2, width)} classes apart: "
                "give one weight per class, in the order of the aligned classes, or 'balanced'."
            )
        if not self._logits and width == 1 and self._final in OVER_CLASSES:
            fix = "no activation" if self._action == "regress" else "sigmoid"
            raise Invalid(f"{final} over a single output never changes: give the last layer {fix} instead.")
        if self._form == "probability" and self._final not in _PROBABILITY:
            raise Invalid(
                f"{name} compares probabilities, and the last activation ({final}) gives other values: "
                "use sigmoid (softmax for several classes), or the criterion BCEWithLogitsLoss."
            )
        if self._form == "value" and self._action == "classify" and self._final in _NON_POSITIVE:
            raise Invalid(
                f"{name} compares the outputs with 0 and 1, and {final} never gives more than 0: "
                "use sigmoid (softmax for several classes), or the criterion NLLLoss."
            )
        if (self._form == "logit" or (self._form == "choice" and width == 1)) and self._final in _ONE_SIDED:
            raise Invalid(
                f"{name} tells a class by the sign of an output, and {final} gives no negative ones: "
                "use sigmoid or no activation for the last layer."
            )
        if name == "PoissonNLLLoss" and not self._log_input and not self._non_negative:
            raise Invalid(
                "PoissonNLLLoss with log_input false needs rates, which are never negative, and the last activation is "
                f"{final}: use softplus or relu, or leave log_input away."
            )
        if self._form == "distance" and not self._non_negative:
            raise Invalid(
                f"{name} needs outputs that are never negative, and the last activation is {final}: "
                "use sigmoid, softmax or relu, or the criterion SoftMarginLoss."
            )


def _index(y: Tensor) -> Tensor:
    return y.long().squeeze(1) if y.dim() == 2 else y
