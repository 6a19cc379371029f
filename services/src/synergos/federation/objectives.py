"""Criterions: how the outputs of a model become a loss, scores and decisions.

Each criterion of torch expects its own form of outputs and labels. Users pair them freely (`NLLLoss` behind a softmax,
`BCELoss` with three classes), so a criterion is not applied to whatever the model gives: it says which form it needs,
and outputs and labels are brought into that form, or the pair is refused with the fix.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synergos.errors import Invalid
from synergos.federation.layers import ACTIVATIONS, TORCH_ERRORS
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
# Arguments of torch's constructors that are deprecated or would need a tensor.
_WITHHELD = frozenset({"size_average", "reduce", "weight", "pos_weight"})
_PROBABILITY = frozenset({"sigmoid", "softmax", "softmin", "hardsigmoid"})
_NON_NEGATIVE = _PROBABILITY | {"relu", "relu6", "softplus"}
# Activations that turn logits into (log-)probabilities: taken away where logits are asked for.
_LINKS = frozenset({"sigmoid", "softmax", "log_softmax", "logsigmoid"})


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

    Raises `Invalid` if criterion, activation, outputs and action cannot work together.
    """

    def __init__(self, name: str, arguments: dict[str, Any], action: Action, final: str, width: int) -> None:
        factory, self._form, actions = CRITERIONS[name]
        if action not in actions:
            fitting = ", ".join(key for key, entry in CRITERIONS.items() if action in entry[2])
            raise Invalid(f"{name} does not fit a project that does {action}. Fitting criterions: {fitting}.")
        if name == "KLDivLoss":
            # torch's default divides by rows and classes.
            arguments = {"reduction": "batchmean", **arguments}
        if arguments.get("reduction") == "none":
            raise Invalid("reduction 'none' gives one loss per row, which cannot be minimised: use 'mean' or 'sum'.")
        try:
            self._criterion = factory(**arguments)
        except TORCH_ERRORS as error:
            raise Invalid(f"criterion {name}: {error}") from None
        self._name, self._action, self._final, self._width = name, action, final, width
        self._logits = self._form in ("logit", "choice")
        self._log_input = name == "PoissonNLLLoss" and bool(arguments.get("log_input", True))
        self._sums = arguments.get("reduction") == "sum"
        self._check()

    def target(self, y: Tensor) -> Tensor:
        """Return labels (session form, see `sessions.Split`) in the form that `loss` takes."""
        if self._action == "regress":
            return y
        index: Tensor = y.long().squeeze(1) if y.dim() == 2 else y
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

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of `raw` outputs (before the final activation)."""
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
        except RuntimeError:
            # BCELoss refuses what is not a number; the callers report a loss that is none.
            if bool(torch.isfinite(outputs).all()):
                raise
            loss = outputs.sum()
        return loss

    def per_row(self, loss: float, rows: int) -> float:
        """Return the mean loss per row from the loss of a batch of `rows`."""
        return loss / rows if self._sums else loss

    def scores(self, raw: Tensor) -> Tensor:
        """Return values or the score of class 1, shape (rows, 1), or one score per class, shape (rows, classes)."""
        if self._action == "regress":
            outputs = ACTIVATIONS[self._final](raw)
            return outputs.exp() if self._log_input else outputs
        if not self._logits:
            return ACTIVATIONS[self._final](raw)
        logits = self._strip(raw)
        if self._width == 1 or (self._form == "logit" and self._final not in ("softmax", "log_softmax")):
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
        return raw if self._final in _LINKS else ACTIVATIONS[self._final](raw)

    def _both(self, logits: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(logits), logits), dim=1) if self._width == 1 else logits

    def _check(self) -> None:
        name, final, width = self._name, self._final or "none", self._width
        if self._action == "regress" and width != 1:
            raise Invalid(f"A regression model needs one output; this one has {width}. Align with auto_fix.")
        if not self._logits and width == 1 and self._final in ("softmax", "softmin", "log_softmax"):
            fix = "no activation" if self._action == "regress" else "sigmoid"
            raise Invalid(f"{final} over a single output never changes: give the last layer {fix} instead.")
        if self._form == "probability" and self._final not in _PROBABILITY:
            raise Invalid(
                f"{name} compares probabilities, and the last activation ({final}) gives other values: "
                "use sigmoid (softmax for several classes), or the criterion BCEWithLogitsLoss."
            )
        if self._form == "distance" and self._final not in _NON_NEGATIVE:
            raise Invalid(
                f"{name} needs outputs that are never negative, and the last activation is {final}: "
                "use sigmoid, softmax or relu, or the criterion SoftMarginLoss."
            )
