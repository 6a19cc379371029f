"""Models fitted to a layout by dry runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_layers import IMAGE as PLANES
from test_layers import SERIES, VECTOR, VOLUME, entry, example

from synergos.errors import Invalid
from synergos.federation.alignment import fit_model
from synergos.federation.layers import LAYERS, Network, probe
from synergos.jobs import Action, Layout

TABLE = 10
PICTURE = (3, 12, 9)


def layer(l_type: str, activation: str | None = None, **structure: Any) -> dict[str, Any]:
    return {"is_input": False, "l_type": l_type, "structure": structure, "activation": activation}


def lin(i: int, o: int, activation: str | None = None) -> dict[str, Any]:
    return layer("Linear", activation, in_features=i, out_features=o)


def conv(i: int, o: int, activation: str | None = "relu", **more: Any) -> dict[str, Any]:
    return layer("Conv2d", activation, in_channels=i, out_channels=o, kernel_size=3, **more)


def layout(classes: int, shape: tuple[int, ...] | None = None) -> Layout:
    y = [f"target_{i}" for i in range(classes)] if classes > 1 else ["target"]
    if shape:
        return Layout(datatype="image", shape=list(shape), y=y)
    return Layout(X=[f"f{i}" for i in range(TABLE)], y=y)


flat, pool = layer("Flatten"), layer("AdaptiveAvgPool2d", output_size=1)


@pytest.mark.parametrize(
    ("action", "classes", "shape", "model", "fitted"),
    [
        # Tables: the models of the original's examples, and what they were fixed to.
        ("regress", 1, None, [lin(28, 1, "")], [lin(10, 1, "")]),
        ("classify", 5, None, [lin(13, 1, "sigmoid")], [lin(10, 5, "softmax")]),
        ("classify", 2, None, [lin(18, 1, "sigmoid")], [lin(10, 1, "sigmoid")]),
        ("classify", 2, None, [lin(18, 2, "softmax")], [lin(10, 1, "sigmoid")]),
        ("classify", 2, None, [lin(18, 2)], [lin(10, 1)]),
        (
            "classify", 100, None,
            [lin(64, 32, "sigmoid"), lin(32, 16, "softmax")],
            [lin(10, 32, "sigmoid"), lin(32, 100, "softmax")],
        ),
        ("regress", 1, None, [lin(3, 3, "softmax")], [lin(10, 1, "")]),
        (
            "classify", 3, None,
            [layer("BatchNorm1d", num_features=1), layer("Dropout"), lin(1, 8, "relu"), lin(8, 1), layer("Sigmoid")],
            [layer("BatchNorm1d", num_features=10), layer("Dropout"), lin(10, 8, "relu"), lin(8, 3),
             layer("Softmax", dim=1)],
        ),
        ("classify", 2, None, [lin(1, 2), layer("Softmax", dim=1)], [lin(10, 1), layer("Sigmoid")]),
        ("classify", 2, None, [lin(1, 2), layer("LogSoftmax", dim=-1), flat], [lin(10, 1), layer("Sigmoid"), flat]),
        ("regress", 1, None, [lin(1, 2), layer("LogSoftmax", dim=1)], [lin(10, 1), layer("Identity")]),
        (
            "regress", 1, None,
            [layer("LayerNorm", normalized_shape=[4]), lin(4, 6), layer("PReLU", num_parameters=2), lin(2, 2)],
            [layer("LayerNorm", normalized_shape=[10]), lin(10, 6), layer("PReLU", num_parameters=6), lin(6, 1)],
        ),
        # A batch normalisation behind the outputs follows them.
        (
            "classify", 3, None, [lin(1, 1), layer("BatchNorm1d", num_features=1)],
            [lin(10, 3), layer("BatchNorm1d", "softmax", num_features=3)],
        ),
        # GLU halves: six values make three outputs.
        ("classify", 3, None, [lin(1, 4), layer("GLU", dim=1)], [lin(10, 6), layer("GLU", "softmax", dim=1)]),
        (
            "regress", 1, None,
            [layer("Unflatten", dim=1, unflattened_size=[1, 28]),
             layer("Conv1d", "relu", in_channels=4, out_channels=2, kernel_size=3), flat, lin(7, 7)],
            [layer("Unflatten", dim=1, unflattened_size=[1, 10]),
             layer("Conv1d", "relu", in_channels=1, out_channels=2, kernel_size=3), flat, lin(16, 1)],
        ),
        # Images: a Linear layer behind a Flatten one takes what the convolutions leave.
        (
            "classify", 5, PICTURE, [conv(1, 4), flat, lin(3136, 1, "sigmoid")],
            [conv(3, 4), flat, lin(280, 5, "softmax")],
        ),
        (
            "classify", 2, PICTURE,
            [layer("BatchNorm2d", num_features=1), conv(1, 6), layer("GroupNorm", num_groups=3, num_channels=9), pool,
             flat, lin(1, 2, "softmax")],
            [layer("BatchNorm2d", num_features=3), conv(3, 6), layer("GroupNorm", num_groups=3, num_channels=6), pool,
             flat, lin(6, 1, "sigmoid")],
        ),
        # The outputs come from a convolution, followed by pooling, Flatten and the activation, in any order.
        (
            "classify", 4, PICTURE, [conv(1, 2, None), pool, flat],
            [conv(3, 4, None), {**pool, "activation": "softmax"}, flat],
        ),
        (
            "classify", 4, PICTURE, [conv(1, 2, None), pool, layer("Sigmoid"), flat],
            [conv(3, 4, None), pool, layer("Softmax", dim=1), flat],
        ),
        (
            "classify", 20, (1, 4, 4), [conv(1, 1, "softmax"), flat],
            [conv(1, 5, "softmax"), flat],
        ),
        ("regress", 1, PICTURE, [conv(1, 2, "softmax"), pool, flat], None),
        (
            "regress", 1, (2, 1, 1),
            [layer("ConvTranspose2d", in_channels=1, out_channels=9, kernel_size=1), flat],
            [layer("ConvTranspose2d", in_channels=2, out_channels=1, kernel_size=1), flat],
        ),
    ],
)  # fmt: skip
def test_models_are_fitted(
    action: Action, classes: int, shape: tuple[int, ...] | None, model: list[Any], fitted: list[Any] | None
) -> None:
    agreed = layout(classes, shape)
    before = str(model)
    fixed = fit_model(model, agreed, action)
    assert fitted in (None, fixed)
    assert fit_model(fixed, agreed, action) == fixed
    assert str(model) == before
    assert probe(fixed, agreed.row_shape)[1] == (classes if classes > 2 else 1)
    assert Network(fixed)(torch.rand(4, *agreed.row_shape)).shape[0] == 4


SIZED = [name for name in LAYERS if name not in ("Fold", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle")]


@pytest.mark.parametrize("name", SIZED)
def test_every_layer_may_come_first(name: str) -> None:
    """Arguments for rows of another shape become those of this one."""
    structure, shape = example(name)
    row = {VECTOR: (6,), SERIES: (6, 13), PLANES: (6, 11, 13), VOLUME: (6, 11, 13, 12)}[shape]
    if len(row) in (2, 4):
        # No kind of data has such rows: they come from an Unflatten layer.
        size = torch.Size(row).numel()
        before = [layer("Unflatten", dim=1, unflattened_size=list(row))]
        agreed = Layout(X=[str(i) for i in range(size)], y=["target"])
    else:
        before = []
        agreed = (
            Layout(X=[str(i) for i in range(6)], y=["target"])
            if len(row) == 1
            else Layout(datatype="image", shape=list(row), y=["target"])
        )
    model = [*before, entry(name, structure), flat, lin(1, 3, "relu"), lin(3, 9)]
    fixed = fit_model(model, agreed, "regress")
    assert probe(fixed, agreed.row_shape)[1] == 1
    assert fixed[-2]["structure"]["out_features"] == 3


@pytest.mark.parametrize(
    ("shape", "model", "said"),
    [
        (None, [conv(1, 4), flat, lin(9, 1)],

         r"Layer 0 \(Conv2d, nnl_0_conv2d\) needs rows of shape .channels, size, size., and these have shape .10,.: "
         "put an Unflatten layer before it"),
        (PICTURE, [lin(9, 4), lin(4, 1)], "put a Flatten layer before the first Linear one"),
        (PICTURE, [conv(1, 4, groups=2), flat, lin(9, 1)],
         r"Layer 0 \(Conv2d\): in_channels must be divisible by groups"),
        (PICTURE, [layer("MaxPool2d", kernel_size=20), flat, lin(9, 1)], r"Layer 0 \(MaxPool2d, nnl_0_maxpool2d\)"),
        (None, [layer("GroupNorm", num_groups=3, num_channels=9), lin(9, 1)],
         r"Layer 0 \(GroupNorm\): num_channels .* divisible by num_groups"),
        (None, [lin(1, 6), layer("Softmax", dim=0), lin(6, 1)],
         r"Layer 1 .* works across rows, along dim 0: use dim 1"),
        (None, [layer("LSTM", input_size=3, hidden_size=3), lin(3, 1)], "Use Linear layers, or Conv1d or Conv2d"),
        (None, [layer("Linear", in_features=3), lin(3, 1)], r"Layer 0 \(Linear\) needs the structure key out_features"),
        (None, [{"structure": {}}], "Layer 0: l_type"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused_with_the_layer(
    shape: tuple[int, ...] | None, model: list[Any], said: str
) -> None:
    agreed = layout(3, shape)
    with pytest.raises(Invalid, match=said):
        probe(fit_model(model, agreed, "classify"), agreed.row_shape)


def test_outputs_that_no_whole_number_gives_stay() -> None:
    """Sixteen pixels per channel never make three outputs."""
    fixed = fit_model([conv(1, 2), flat], layout(3, (3, 6, 6)), "classify")
    assert fixed[0]["structure"] == {"in_channels": 3, "out_channels": 2, "kernel_size": 3}
