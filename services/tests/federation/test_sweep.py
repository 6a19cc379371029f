"""Every pair of criterion and final activation, for every action and width: it trains, or is refused with the fix."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from worker_double import linear, separable

from synergos.errors import Invalid
from synergos.federation import training
from synergos.federation.layers import ACTIVATIONS, Network
from synergos.federation.objectives import CRITERIONS
from synergos.federation.parameters import Parameters
from synergos.federation.sessions import Split
from synergos.jobs import Action

QUICK = {"epochs": 25, "patience": 25, "optimizer": "Adam", "lr": 0.1, "lr_scheduler": "LambdaLR", "lr_decay": 0}
FEATURES = 4
# What a refusal may tell its reader to do.
FIX = re.compile(r"\buse \w+|give the last layer \w+|Fitting criterions: \w+")
SPLITS = {classes: separable(120, FEATURES, classes, seed=3) for classes in (2, 3)}


def problem(action: Action, width: int, criterion: str, activation: str) -> Split:
    if action == "classify":
        return SPLITS[max(2, width)]
    X = SPLITS[2].X
    # Within reach of the activation: some give values from 0 to 1 only, one gives negative ones.
    value = 0.5 + X @ np.asarray([0.1, -0.05, 0.1, 0.05], np.float32)
    if activation == "logsigmoid":
        value = -value
    return Split(X, (np.exp(value) if criterion == "PoissonNLLLoss" else value)[:, None])


def trained(criterion: str, activation: str, action: Action, width: int) -> tuple[float, float, float]:
    """Return the loss before and after a short training, and the share of right classes (1 for regression)."""
    split = problem(action, width, criterion, activation)
    parameters = Parameters.read({**QUICK, "criterion": criterion})
    torch.manual_seed(0)
    network = Network(linear(FEATURES, width, activation))
    parameters.check(action, network.final, width)
    objective = parameters.objective(action, network.final, width)
    data = training.Labelled.of(split, objective, "train")
    before = training.evaluate(network, data, objective)
    training.fit(network, data, parameters, objective, training.Turn(1, 1), mu=0, is_open=lambda: True)
    after = training.evaluate(network, data, objective)
    y_pred, _ = training.infer(network, split.X, objective)
    return before, after, float((y_pred == split.y.ravel()).mean()) if action == "classify" else 1.0


@pytest.mark.parametrize(("action", "width"), [("regress", 1), ("classify", 1), ("classify", 2), ("classify", 3)])
@pytest.mark.parametrize("criterion", CRITERIONS)
def test_every_pair(criterion: str, action: Action, width: int) -> None:
    wrong, worked = {}, 0
    for activation in ACTIVATIONS:
        try:
            before, after, right = trained(criterion, activation, action, width)
        except Invalid as refusal:
            if not FIX.search(refusal.message):
                wrong[activation] = refusal.message
            continue
        worked += 1
        if after > before - 0.04 * abs(before) or right < 0.7:
            wrong[activation] = f"loss {before:.3f} to {after:.3f}, {right:.2f} right"
    assert not wrong
    assert (worked > 0) == (action in CRITERIONS[criterion][2])
