"""Criterions fitted to models: what pairs learn, what equals what, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from worker_double import linear, separable

from synergos.errors import Invalid
from synergos.federation import training
from synergos.federation.layers import Network
from synergos.federation.objectives import CRITERIONS, Objective
from synergos.federation.parameters import Parameters
from synergos.federation.sessions import Split

FAST = {
    "epochs": 40,
    "batch_size": 50,
    "optimizer": "Adam",
    "lr": 0.05,
    "lr_scheduler": "LambdaLR",
    "lr_decay": 0,
    "mu": 0,
}


def learn(
    model: list[Any], split: Split, action: Any, values: dict[str, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    torch.manual_seed(1)
    network = Network(model)
    parameters = Parameters.read({**FAST, **values})
    width = model[-1]["structure"]["out_features"]
    parameters.check(action, network.final, width)
    objective = parameters.objective(action, network.final, width)
    data = training.Labelled.of(split, objective, "train")
    before = training.evaluate(network, data, objective)
    training.fit(network, data, parameters, objective, training.Turn(1, 1), mu=0, is_open=lambda: True)
    assert training.evaluate(network, data, objective) < before
    return training.infer(network, split.X, objective)


CLASSIFYING = [name for name, (_, _, actions) in CRITERIONS.items() if "classify" in actions]
PAIRS = [
    (name, activation)
    for name in CLASSIFYING
    for activation in ("sigmoid", "softmax", None)
    if activation or CRITERIONS[name][1] in ("logit", "choice")
]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("name", "activation"), PAIRS)
def test_classifiers_learn(name: str, activation: str | None, classes: int) -> None:
    split = separable(400, 5, classes, seed=3)
    outputs = 1 if classes == 2 and activation != "softmax" else classes
    y_pred, y_score = learn(linear(5, outputs, activation), split, "classify", {"criterion": name})
    truth = split.y.ravel()
    # Element-wise losses over one-hot labels are slow to leave "no class at all".
    assert (y_pred == truth).mean() > (0.75 if classes == 4 else 0.9)
    assert y_pred.shape == (400,)
    assert np.issubdtype(y_pred.dtype, np.integer)
    assert y_score.shape == (400, 1 if classes == 2 else classes)
    if classes == 2:
        assert y_score[truth == 1].mean() > y_score[truth == 0].mean()
        if name not in ("L1Loss", "MSELoss") or activation:
            assert 0 <= y_score.min() <= y_score.max() <= 1
            np.testing.assert_array_equal(y_score[:, 0] > 0.5, y_pred == 1)


@pytest.mark.parametrize("name", [name for name, (_, _, actions) in CRITERIONS.items() if "regress" in actions])
def test_regressors_learn(name: str) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(300, 4)).astype(np.float32)
    rate = X @ np.asarray([0.3, -0.2, 0.1, 0.2], dtype=np.float32) + 1
    y = np.exp(rate) if name == "PoissonNLLLoss" else rate
    y_pred, y_score = learn(linear(4, 1, None), Split(X, y[:, None]), "regress", {"criterion": name})
    assert np.corrcoef(y_pred, y)[0, 1] > 0.98
    assert abs(y_pred - y).mean() < 0.2
    np.testing.assert_array_equal(y_score, y_pred[:, None])


def test_nllloss_behind_softmax_is_cross_entropy() -> None:
    raw, y = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for final in ("softmax", "log_softmax", ""):
        for name in ("NLLLoss", "CrossEntropyLoss"):
            objective = Objective(name, {}, "classify", final, 3)
            torch.testing.assert_close(objective.loss(raw, objective.target(y)), F.cross_entropy(raw, y))


def test_single_output_means_two_classes_for_every_criterion_of_choice() -> None:
    raw, y = torch.randn(6, 1), torch.tensor([[0.0], [1], [1], [0], [1], [0]])
    expected = F.binary_cross_entropy_with_logits(raw, y)
    for name, final in (
        ("BCELoss", "sigmoid"),
        ("BCEWithLogitsLoss", "sigmoid"),
        ("BCEWithLogitsLoss", ""),
        ("NLLLoss", "sigmoid"),
        ("CrossEntropyLoss", ""),
        ("NLLLoss", "softmax"),
    ):
        objective = Objective(name, {}, "classify", final, 1)
        torch.testing.assert_close(objective.loss(raw, objective.target(y)), expected)
        torch.testing.assert_close(objective.scores(raw), torch.sigmoid(raw))


def test_loss_per_row_does_not_depend_on_batches_or_reduction() -> None:
    split = separable(10, 4, 3, seed=1)
    network = Network(linear(4, 3, "softmax"))
    losses = []
    for reduction in ("mean", "sum"):
        objective = Objective("NLLLoss", {"reduction": reduction}, "classify", "softmax", 3)
        losses.append(training.evaluate(network, training.Labelled.of(split, objective, "train"), objective))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "action", "final", "width", "said"),
    [
        (
            "BCELoss",
            {},
            "regress",
            "sigmoid",
            1,
            "does not fit a project that does regress. Fitting criterions: L1Loss",
        ),
        ("PoissonNLLLoss", {}, "classify", "", 1, "does not fit a project that does classify"),
        ("BCELoss", {}, "classify", "", 1, "last activation .none. gives other values: use sigmoid"),
        ("BCELoss", {}, "classify", "tanh", 3, "BCEWithLogitsLoss"),
        ("MSELoss", {}, "classify", "softmax", 1, "over a single output never changes: give the last layer sigmoid"),
        ("MSELoss", {}, "regress", "softmax", 1, "no activation instead"),
        ("MSELoss", {}, "regress", "", 2, "needs one output; this one has 2"),
        ("HingeEmbeddingLoss", {}, "classify", "tanh", 1, "never negative"),
        ("MSELoss", {"reduction": "none"}, "regress", "", 1, "one loss per row"),
        ("NLLLoss", {"label_smoothing": 0.1}, "classify", "", 2, "criterion NLLLoss"),
    ],
)
def test_pairs_that_cannot_work(name: str, arguments: Any, action: Any, final: str, width: int, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        Objective(name, arguments, action, final, width)


def test_labels_beyond_the_outputs() -> None:
    objective = Objective("NLLLoss", {}, "classify", "softmax", 3)
    with pytest.raises(Invalid, match="class 5 and the model has 3 outputs"):
        objective.target(torch.tensor([0, 5]))
