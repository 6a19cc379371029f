"""Models built by allow-list."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worker_double import linear

from synergos.errors import Invalid
from synergos.federation.layers import ACTIVATIONS, LAYERS, REFUSED, Network, probe

VECTOR, SERIES, IMAGE, VOLUME = (8,), (4, 16), (4, 8, 8), (4, 8, 8, 8)
# Constructor arguments and the shape of a row, for every layer whose constructor needs arguments.
EXAMPLES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "Linear": ({"in_features": 8, "out_features": 2, "bias": False}, VECTOR),
    "Unflatten": ({"dim": 1, "unflattened_size": [2, 4]}, VECTOR),
    "LayerNorm": ({"normalized_shape": [8]}, VECTOR),
    "RMSNorm": ({"normalized_shape": [8]}, VECTOR),
    "GroupNorm": ({"num_groups": 2, "num_channels": 4}, IMAGE),
    "LocalResponseNorm": ({"size": 2}, IMAGE),
    "PixelShuffle": ({"upscale_factor": 2}, IMAGE),
    "PixelUnshuffle": ({"downscale_factor": 2}, IMAGE),
    "ChannelShuffle": ({"groups": 2}, IMAGE),
    "Unfold": ({"kernel_size": [2, 2]}, IMAGE),
    "Fold": ({"output_size": [4, 4], "kernel_size": [2, 2], "stride": 2}, (16, 4)),
    "Upsample": ({"scale_factor": 2}, IMAGE),
    "UpsamplingNearest2d": ({"scale_factor": 2}, IMAGE),
    "UpsamplingBilinear2d": ({"scale_factor": 2}, IMAGE),
    "FractionalMaxPool2d": ({"kernel_size": 2, "output_size": 3}, IMAGE),
    "FractionalMaxPool3d": ({"kernel_size": 2, "output_size": 3}, VOLUME),
    "Threshold": ({"threshold": 0.1, "value": 0.0}, VECTOR),
    "Softmax": ({"dim": 1}, VECTOR),
    "LogSoftmax": ({"dim": 1}, VECTOR),
    "Softmin": ({"dim": 1}, VECTOR),
    "Softmax2d": ({}, IMAGE),
    "Dropout1d": ({"p": 0.5}, SERIES),
}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("ConvTranspose", {"in_channels": 4, "out_channels": 2, "kernel_size": 3}),
    ("Conv", {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": 1}),
    ("AdaptiveMaxPool", {"output_size": 2}),
    ("AdaptiveAvgPool", {"output_size": 2}),
    ("MaxPool", {"kernel_size": 2}),
    ("AvgPool", {"kernel_size": 2}),
    ("LPPool", {"norm_type": 2, "kernel_size": 2}),
    ("BatchNorm", {"num_features": 4}),
    ("InstanceNorm", {"num_features": 4, "affine": True}),
    ("ConstantPad", {"padding": 1, "value": 0.5}),
    ("ZeroPad", {"padding": 1}),
    ("ReflectionPad", {"padding": 1}),
    ("ReplicationPad", {"padding": 1}),
    ("CircularPad", {"padding": 1}),
    ("Dropout", {"p": 0.5}),
]


def example(name: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    if name in EXAMPLES:
        return EXAMPLES[name]
    for family, structure in FAMILIES:
        if name.startswith(family) and name[-2:] in ("1d", "2d", "3d"):
            return structure, {"1d": SERIES, "2d": IMAGE, "3d": VOLUME}[name[-2:]]
    return {}, VECTOR


def entry(l_type: str, structure: dict[str, Any] | None = None, activation: str | None = None) -> dict[str, Any]:
    return {"is_input": False, "l_type": l_type, "structure": structure or {}, "activation": activation}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_computes(name: str) -> None:
    structure, shape = example(name)
    out = Network([entry(name, structure)])(torch.rand((3, *shape)))
    outputs = out[0].numel()
    # The same layer in a model with weights, checked from shapes alone.
    model = [entry(name, structure), entry("Flatten"), *linear(outputs, 2, None)]
    assert out.shape[0] == 3
    assert probe(model, shape)[1] == 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_computes(name: str) -> None:
    network = Network(linear(4, 3, name))
    assert network(torch.rand(2, 4)).shape == (2, 3)
    assert network.final == name


def test_names_of_weights_and_the_closing_activation() -> None:
    model = [*linear(4, 8, "relu"), entry("Dropout"), *linear(8, 3, None), entry("Softmax", {"dim": 1})]
    network = Network(model).eval()
    x = torch.rand(5, 4)
    assert list(network.state_dict()) == [
        "nnl_0_linear.weight",
        "nnl_0_linear.bias",
        "nnl_2_linear.weight",
        "nnl_2_linear.bias",
    ]
    assert network.final == "softmax"
    torch.testing.assert_close(network(x), network.raw(x).softmax(dim=1))
    weights = network.state_dict()
    hidden = torch.relu(x @ weights["nnl_0_linear.weight"].T + weights["nnl_0_linear.bias"])
    torch.testing.assert_close(network.raw(x), hidden @ weights["nnl_2_linear.weight"].T + weights["nnl_2_linear.bias"])


BIG = {"in_features": 100_000, "out_features": 100_000}
HUGE = {"in_features": 2**40, "out_features": 2**40}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ([], "1 to 1000 layers"),
        ([entry("Lstm")], r"'Lstm' is not a supported layer type. Supported: Linear, .*Tanh"),
        ([entry("LSTM", {"input_size": 3, "hidden_size": 3})], "LSTM is not supported: a recurrent layer"),
        ([entry("Embedding")], "Embedding is not supported"),
        ([entry("Sequential")], "not a supported layer type"),
        ([entry("Linear", {"in_features": 4})], r"Layer 0 \(Linear\) needs the structure key out_features"),
        ([entry("Linear", {"in_features": "4", "out_features": 1})], r"Layer 0 \(Linear\)"),
        ([entry("Linear", {"in_features": -4, "out_features": 1})], r"Layer 0 \(Linear\)"),
        ([entry("Linear", {"in_features": 4, "out_features": 1, "device": "cuda"})], "unknown structure key device"),
        ([entry("Linear", {"in_feats": 4})], "unknown structure key in_feats. Known: in_features, out_features, bias"),
        ([entry("Dropout", {"p": float("nan")})], "p must be a finite number"),
        (linear(4, 1, "eval"), "'eval' is not a supported activation. Supported: celu, .*softmax"),
        (linear(4, 1, "") + linear(2, 1, ""), r"Layer 1 \(Linear, nnl_1_linear\) cannot take rows of shape \(1,\)"),
        (linear(5, 1, ""), r"Layer 0 \(Linear, nnl_0_linear\) cannot take rows of shape \(4,\)"),
        ([entry("MaxPool1d", {"kernel_size": 2, "return_indices": True}), *linear(2, 1, "")], "more than one output"),
        ([entry("Flatten", {"start_dim": 0}), *linear(12, 1, "")], "mixes rows"),
        ([entry("ReLU")], "nothing to train"),
        ([entry("Unflatten", {"dim": 1, "unflattened_size": [2, 2]}), *linear(2, 2, "")], r"rows of shape \(2, 2\)"),
        ([entry("Linear", BIG)], "parameters; the limit is"),
        ([entry("Linear", HUGE)], r"Layer 0 \(Linear\)"),
        ([*linear(4, 4, ""), entry("ConstantPad1d", {"padding": [0, 10**9], "value": 0})], "values per row; the limit"),
        ([{"l_type": "Linear", "structure": [], "activation": None}], "Layer 0: structure"),
        ([{"structure": {}}], "Layer 0: l_type"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(model: list[Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        probe(model, (4,))


def test_refused_and_supported_do_not_overlap() -> None:
    assert not REFUSED.keys() & LAYERS.keys()
