"""What a user sees who gives a setting that cannot be used: the exact message of each kind."""

from __future__ import annotations

import math
from typing import Any

import pytest

from synergos.errors import Invalid
from synergos.federation.algorithms import ALGORITHMS
from synergos.federation.alignment import Poll, agree
from synergos.federation.layers import ACTIVATIONS, LAYERS, probe
from synergos.federation.objectives import CRITERIONS
from synergos.federation.optimization import OPTIMIZERS, SCHEDULERS
from synergos.federation.parameters import Parameters


def supported(names: Any) -> str:
    return f"Supported: {', '.join(names)}."


WEIGHTS = "must be 'balanced', or a list of two or more positive numbers, one per class."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": 0}, "Run parameters: rounds = 0 must be 1 or more."),
        ({"rounds": 2.5}, "Run parameters: rounds = 2.5 must be a whole number."),
        ({"rounds": 10**9}, "Run parameters: rounds = 1000000000 must be 100000 or less."),
        ({"epochs": "many"}, "Run parameters: epochs = 'many' must be a whole number."),
        ({"batch_size": 0}, "Run parameters: batch_size = 0 must be 1 or more."),
        ({"lr": 0}, "Run parameters: lr = 0 must be above 0."),
        ({"lr": math.nan}, "Run parameters: lr = nan must be a finite number."),
        ({"lr": "fast"}, "Run parameters: lr = 'fast' must be a number."),
        ({"lr": True}, "Run parameters: lr = True must be a number."),
        ({"lr": [0.1]}, "Run parameters: lr = [0.1] must be a number."),
        ({"lr": -1, "mu": -2}, "Run parameters: lr = -1 must be above 0; mu = -2 must be 0 or more."),
        ({"seed": 2**63}, "Run parameters: seed = 9223372036854775808 must be below 9223372036854775808."),
        ({"min_participants": 0}, "Run parameters: min_participants = 0 must be 1 or more."),
        ({"min_participants": 1.5}, "Run parameters: min_participants = 1.5 must be a whole number."),
        ({"grace": -1}, "Run parameters: grace = -1 must be 0 or more."),
        ({"checkpoints": -1}, "Run parameters: checkpoints = -1 must be 0 or more."),
        ({"algorithm": 3}, "Run parameters: algorithm = 3 must be a text."),
        ({"algorithm": True}, "Run parameters: algorithm = True must be a text."),
        (
            {"algorithm": "FedGKT"},
            "algorithm 'FedGKT' is not supported (it sends every participant's labels and features to the "
            f"orchestrator). {supported(ALGORITHMS)}",
        ),
        (
            {"algorithm": "fedavg"},
            f"algorithm 'fedavg' is unknown. Did you mean FedAvg? {supported(ALGORITHMS)}",
        ),
        (
            {"optimizer": "LBFGS"},
            "optimizer 'LBFGS' is not supported (it evaluates the loss several times per step, which a federated round "
            f"does not offer). {supported(OPTIMIZERS)}",
        ),
        ({"optimizer": "sgd"}, f"optimizer 'sgd' is unknown. Did you mean SGD? {supported(OPTIMIZERS)}"),
        ({"criterion": "BCELos"}, f"criterion 'BCELos' is unknown. Did you mean BCELoss? {supported(CRITERIONS)}"),
        (
            {"criterion": "CTCLoss"},
            "criterion 'CTCLoss' is not supported (it compares sequences, and a row here has one label). "
            f"{supported(CRITERIONS)}",
        ),
        (
            {"lr_scheduler": "MultiplicativeLR"},
            "lr_scheduler 'MultiplicativeLR' is not supported (it takes a function; ExponentialLR with gamma "
            f"multiplies by a constant). {supported(SCHEDULERS)}",
        ),
        ({"lr_scheduler": "x"}, f"lr_scheduler 'x' is unknown. {supported(SCHEDULERS)}"),
        ({"class_weights": "even"}, f"Run parameters: class_weights = 'even' {WEIGHTS}"),
        ({"class_weights": [1]}, f"Run parameters: class_weights = [1] {WEIGHTS}"),
        ({"class_weights": [1, 0]}, f"Run parameters: class_weights = [1, 0] {WEIGHTS}"),
        ({"momentum": "much"}, "Run parameters: momentum = 'much' must be a finite number."),
        ({"momentum": math.inf}, "Run parameters: momentum = inf must be a finite number."),
        ({"momentum": -1}, "Run parameters: momentum = -1 must be 0 or more."),
        ({"nesterov": 1}, "Run parameters: nesterov = 1 must be true or false."),
        ({"mode": 2}, "Run parameters: mode = 2 must be a text."),
        ({"betas": [0.9]}, "Run parameters: betas = [0.9] must be a list of 2 numbers."),
        ({"betas": [0.9, 2]}, "Run parameters: betas = [0.9, 2] must be two numbers from 0, below 1."),
        ({"milestones": 3}, "Run parameters: milestones = 3 must be a list of increasing numbers."),
        ({"step_size": 0}, "Run parameters: step_size = 0 must be a whole number from 1."),
    ],
)
def test_run_parameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as refusal:
        Parameters.read(values)
    assert refusal.value.message == message


def test_an_unknown_parameter_is_answered_with_the_closest_and_with_all() -> None:
    with pytest.raises(Invalid) as refusal:
        Parameters.read({"momentun": 0.9})
    start = "Run parameters: 'momentun' is unknown. Did you mean momentum? Supported: algorithm, rounds, epochs, "
    assert refusal.value.message.startswith(start)
    for name in ("class_weights", "momentum", "max_lr", "milestones", "reduction"):
        assert f" {name}," in refusal.value.message


@pytest.mark.parametrize(
    ("values", "action", "final", "width", "message"),
    [
        (
            {"class_weights": [1, 2, 3]}, "classify", "sigmoid", 1,
            "class_weights has 3 values and the model tells 2 classes apart: give one weight per class, in the order "
            "of the aligned classes, or 'balanced'.",
        ),
        (
            {"class_weights": "balanced", "criterion": "MSELoss"}, "regress", "", 1,
            "class_weights weigh classes, and a regression has none: leave them away.",
        ),
        (
            {"criterion": "BCELoss"}, "classify", "relu", 1,
            "BCELoss compares probabilities, and the last activation (relu) gives other values: use sigmoid (softmax "
            "for several classes), or the criterion BCEWithLogitsLoss.",
        ),
        (
            {"criterion": "BCELoss"}, "regress", "sigmoid", 1,
            "BCELoss does not fit a project that does regress. Fitting criterions: L1Loss, MSELoss, SmoothL1Loss, "
            "HuberLoss, PoissonNLLLoss.",
        ),
        (
            {"criterion": "MSELoss"}, "classify", "softmax", 1,
            "softmax over a single output never changes: give the last layer sigmoid instead.",
        ),
        (
            {"criterion": "MSELoss"}, "regress", "", 3,
            "A regression model needs one output; this one has 3. Align with auto_fix.",
        ),
        (
            {"criterion": "MSELoss"}, "regress", "hardshrink", 1,
            "The last activation hardshrink is 0 for small outputs, which then cannot learn: use no activation for the "
            "last layer.",
        ),
        (
            {"criterion": "BCEWithLogitsLoss"}, "classify", "relu", 1,
            "BCEWithLogitsLoss tells a class by the sign of an output, and relu gives no negative ones: use sigmoid or "
            "no activation for the last layer.",
        ),
        (
            {"criterion": "L1Loss"}, "classify", "logsigmoid", 2,
            "L1Loss compares the outputs with 0 and 1, and logsigmoid never gives more than 0: use sigmoid (softmax "
            "for several classes), or the criterion NLLLoss.",
        ),
        (
            {"criterion": "HingeEmbeddingLoss"}, "classify", "tanh", 2,
            "HingeEmbeddingLoss needs outputs that are never negative, and the last activation is tanh: use sigmoid, "
            "softmax or relu, or the criterion SoftMarginLoss.",
        ),
        (
            {"criterion": "PoissonNLLLoss", "log_input": False}, "regress", "", 1,
            "PoissonNLLLoss with log_input false needs rates, which are never negative, and the last activation is "
            "none: use softplus or relu, or leave log_input away.",
        ),
        (
            {"criterion": "MSELoss", "reduction": "average"}, "regress", "", 1,
            "criterion MSELoss: reduction 'average' is unknown; known: mean, sum.",
        ),
        (
            {"criterion": "MSELoss", "reduction": "none"}, "regress", "", 1,
            "reduction 'none' gives one loss per row, which cannot be minimised: use 'mean' or 'sum'.",
        ),
        (
            {"criterion": "MSELoss", "optimizer": "Rprop", "weight_decay": 0.1}, "regress", "", 1,
            "optimizer Rprop has no weight_decay: use l2_lambda instead.",
        ),
        (
            {"criterion": "MSELoss", "nesterov": True}, "regress", "", 1,
            "optimizer SGD: Nesterov momentum requires a momentum and zero dampening",
        ),
        (
            {"criterion": "MSELoss", "lr_scheduler": "StepLR"}, "regress", "", 1,
            "lr_scheduler StepLR needs the run parameter step_size.",
        ),
        (
            {"criterion": "MSELoss", "mode": "sideways"}, "regress", "", 1,
            "lr_scheduler CyclicLR: mode = 'sideways' must be triangular or triangular2 or exp_range.",
        ),
        (
            {"criterion": "MSELoss", "lr_scheduler": "ReduceLROnPlateau", "mode": "max"}, "regress", "", 1,
            "lr_scheduler ReduceLROnPlateau: mode = 'max' must be min.",
        ),
    ],
)  # fmt: skip
def test_parameters_and_model(values: dict[str, Any], action: Any, final: str, width: int, message: str) -> None:
    with pytest.raises(Invalid) as refusal:
        Parameters.read(values).check(action, final, width)
    assert refusal.value.message == message


def lin(takes: Any, gives: Any, activation: Any = None, **more: Any) -> dict[str, Any]:
    return {"l_type": "Linear", "structure": {"in_features": takes, "out_features": gives, **more},
            "activation": activation}  # fmt: skip


def layer(l_type: str, **structure: Any) -> dict[str, Any]:
    return {"l_type": l_type, "structure": structure}


KEYS = "A layer has the keys is_input, l_type, structure, activation."


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ([], "A model needs 1 to 1000 layers; this one has 0."),
        (["Linear"], f"Layer 0: a layer must be an object. {KEYS}"),
        ([{"structure": {}}], f"Layer 0: l_type is missing. {KEYS}"),
        ([{**lin(4, 1), "extra": 1}], f"Layer 0: extra is unknown. {KEYS}"),
        ([lin(4, 1, 3)], f"Layer 0: activation must be a text. {KEYS}"),
        (
            [layer("linear")],
            f"Layer 0: 'linear' is not a supported layer type. Did you mean Linear? {supported(LAYERS)}",
        ),
        (
            [lin(4, 1, "Relu")],
            "Layer 0 (Linear): 'Relu' is not a supported activation. Did you mean relu? "
            f"{supported([*filter(None, ACTIVATIONS), 'null for none'])}",
        ),
        (
            [layer("LSTM", input_size=3, hidden_size=3)],
            "Layer 0: LSTM is not supported: a recurrent layer reads a sequence step by step and gives a state beside "
            "its output, and neither a table's row, nor an image, nor the counts of words are a sequence. Use Linear "
            "layers, or Conv1d or Conv2d where neighbours belong together.",
        ),
        (
            [layer("Embedding")],
            "Layer 0: Embedding is not supported: it looks up whole-number indexes, and what a model is given are "
            "scaled numbers. Use Linear layers.",
        ),
        ([layer("Linear", in_features=4)], "Layer 0 (Linear) needs the structure key out_features."),
        ([lin("4", 1)], "Layer 0 (Linear): in_features = '4' must be a whole number from 1."),
        ([lin(4, 0)], "Layer 0 (Linear): out_features = 0 must be a whole number from 1."),
        (
            [lin(4, 1, device="cuda")],
            "Layer 0 (Linear): unknown structure key device. Known: in_features, out_features, bias.",
        ),
        ([layer("Dropout", p=2)], "Layer 0 (Dropout): dropout probability has to be between 0 and 1, but got 2"),
        (
            [lin(4, 3), lin(2, 1)],
            "Layer 1 (Linear, nnl_1_linear) cannot take rows of shape (3,): in_features is 2 and must be 3. Correct "
            "it, or align with auto_fix.",
        ),
        (
            [layer("Conv2d", in_channels=1, out_channels=1, kernel_size=3)],
            "Layer 0 (Conv2d, nnl_0_conv2d) needs rows of shape (channels, size, size), and these have shape (4,): put "
            "an Unflatten layer before it, or use Linear layers.",
        ),
        (
            [layer("ReLU")],
            "The model has no layer with weights, so there is nothing to train: add a Linear layer, for instance.",
        ),
        (
            [lin(100_000, 100_000)],
            "The model has 10000100000 parameters; the limit is 100000000: make its layers smaller.",
        ),
    ],
)
def test_models(model: list[Any], message: str) -> None:
    with pytest.raises(Invalid) as refusal:
        probe(model, (4,))
    assert refusal.value.message == message


def test_kinds_of_data() -> None:
    polls = {
        "alice": Poll.read("alice", {"headers": {"train": {"X": ["a"]}}, "metadata": {"train": {"_type": "tabular"}}}),
        "bob": Poll.read("bob", {"headers": {"train": {"X": ["#other"]}}, "metadata": {"train": {"_type": "text"}}}),
    }
    with pytest.raises(Invalid) as refusal:
        agree(polls)
    assert refusal.value.message == (
        "All sets of a project need the same kind of data; here it is tabular at alice (train), text at bob (train)."
    )
