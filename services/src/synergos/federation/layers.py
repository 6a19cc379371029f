"""Models from lists of layers, built from torch by allow-list and checked before anything is computed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from synergos.errors import Invalid

MAX_LAYERS = 1000
MAX_PARAMETERS = 100_000_000
MAX_ACTIVATIONS = 50_000_000

_MODULES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.LPPool1d, nn.LPPool2d, nn.LPPool3d, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    *(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, nn.Fold),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    *(nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid),
    *(nn.Softmax, nn.Softmax2d, nn.Softmin, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink),
    nn.Threshold,
)
LAYERS: dict[str, type[nn.Module]] = {module.__name__: module for module in _MODULES}

_RECURRENT = "a recurrent layer gives a state beside its output, and a row of a table is no sequence"
_INDEXES = "it looks up whole-number indexes, and features are scaled numbers"
_PAIR = "it takes two inputs, and a model here is one chain"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"), _RECURRENT),
    **dict.fromkeys(("Embedding", "EmbeddingBag"), _INDEXES),
    **dict.fromkeys(("Bilinear", "Transformer", "MultiheadAttention", "MaxUnpool1d", "MaxUnpool2d"), _PAIR),
}

Activation = Callable[[Tensor], Tensor]


def _identity(x: Tensor) -> Tensor:
    return x


def _over_classes(function: Callable[..., Tensor]) -> Activation:
    return lambda x: function(x, dim=1)


ACTIVATIONS: dict[str, Activation] = {
    "": _identity,
    "celu": F.celu,
    "elu": F.elu,
    "gelu": F.gelu,
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "log_softmax": _over_classes(F.log_softmax),
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softmax": _over_classes(F.softmax),
    "softmin": _over_classes(F.softmin),
    "softplus": F.softplus,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
}
# A closing layer of these types says the same as the activation of that name.
_CLOSING = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "LogSigmoid": "logsigmoid"}
# What torch raises for arguments that it cannot use.
TORCH_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError, ArithmeticError)
_INTERNAL = frozenset({"self", "device", "dtype", "args", "kwargs"})


class Layer(BaseModel):
    """One entry of an experiment's `model`."""

    model_config = ConfigDict(extra="forbid")

    is_input: bool = False
    l_type: str = Field(max_length=64)
    structure: dict[str, Any] = Field(default_factory=dict)
    activation: str | None = None


class Network(nn.Module):
    """A chain of layers with the parameter names `nnl_<index>_<type in lower case>.*`.

    Args:
        model: the layers, as in an experiment record. Raises `Invalid` for what is unknown or does not fit.

    Attributes:
        final: name of the activation after the last layer, `""` for none. `raw` leaves it out, so that a loss can
            be computed on logits.
    """

    def __init__(self, model: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        layers = parse(model)
        self.final = layers[-1].activation or ""
        self._chain: list[tuple[nn.Module, Activation]] = []
        for index, layer in enumerate(layers):
            module = _build(index, layer)
            self.add_module(f"nnl_{index}_{layer.l_type.lower()}", module)
            self._chain.append((module, ACTIVATIONS[layer.activation or ""]))
        if not self.final and layers[-1].l_type in _CLOSING:
            self.final = _CLOSING[layers[-1].l_type]
            self._chain.pop()
        elif self.final:
            self._chain[-1] = (self._chain[-1][0], _identity)
        self.needs_rows = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.children())

    def raw(self, x: Tensor) -> Tensor:
        """Return the outputs before the final activation, shape (rows, outputs)."""
        for module, activation in self._chain:
            x = activation(module(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (rows, outputs)."""
        return ACTIVATIONS[self.final](self.raw(x))

    def trace(self, x: Tensor) -> Tensor:
        """Return `raw(x)` while checking every step; raises `Invalid` naming the layer that does not fit."""
        rows = x.shape[0]
        for index, (name, (module, activation)) in enumerate(
            zip(dict(self.named_children()), self._chain, strict=False)
        ):
            shape = tuple(x.shape[1:])
            where = f"Layer {index} ({type(module).__name__}, {name})"
            try:
                x = activation(module(x))
            except TORCH_ERRORS as error:
                raise Invalid(f"{where} cannot take rows of shape {shape}: {_first_line(error)}") from None
            if not isinstance(x, Tensor):
                raise Invalid(f"{where} gives more than one output; layers must turn one tensor into one tensor.")
            if x.dim() == 0 or x.shape[0] != rows:
                raise Invalid(f"{where} mixes rows: {rows} rows of shape {shape} became {tuple(x.shape)}.")
            if x.numel() // rows > MAX_ACTIVATIONS:
                raise Invalid(f"{where} gives {x.numel() // rows} values per row; the limit is {MAX_ACTIVATIONS}.")
        return x


def parse(model: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """Return the layers of `model`, every name known; raises `Invalid`."""
    if not 0 < len(model) <= MAX_LAYERS:
        raise Invalid(f"A model needs 1 to {MAX_LAYERS} layers; this one has {len(model)}.")
    layers = []
    for index, entry in enumerate(model):
        try:
            layer = Layer.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise Invalid(f"Layer {index}: {field or 'entry'}: {first['msg']}.") from None
        if layer.l_type in REFUSED:
            raise Invalid(f"Layer {index}: {layer.l_type} is not supported: {REFUSED[layer.l_type]}.")
        if layer.l_type not in LAYERS:
            raise Invalid(
                f"Layer {index}: {layer.l_type!r} is not a supported layer type. Supported: {', '.join(LAYERS)}."
            )
        if (layer.activation or "") not in ACTIVATIONS:
            names = ", ".join(name for name in ACTIVATIONS if name)
            raise Invalid(
                f"Layer {index} ({layer.l_type}): {layer.activation!r} is not a supported activation. "
                f"Supported: {names}, or null for none."
            )
        layers.append(layer)
    return layers


def outline(model: Sequence[Mapping[str, Any]]) -> Network:
    """Return `model` without memory for its weights; raises `Invalid` for what is unknown, empty or too large."""
    with torch.device("meta"):
        network = Network(model)
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MAX_PARAMETERS:
        raise Invalid(f"The model has {count} parameters; the limit is {MAX_PARAMETERS}.")
    if count == 0:
        raise Invalid("The model has no layer with weights, so there is nothing to train.")
    return network


def probe(model: Sequence[Mapping[str, Any]], row_shape: tuple[int, ...]) -> tuple[Network, int]:
    """Return the `outline` of `model` and its number of outputs for rows of `row_shape`, from shapes alone.

    Raises `Invalid` naming the first layer that does not fit.
    """
    network = outline(model)
    with torch.no_grad():
        out = network.trace(torch.empty((3, *row_shape), device="meta"))
    if out.dim() != 2:
        raise Invalid(f"The last layer gives rows of shape {tuple(out.shape[1:])}; end with Flatten and Linear layers.")
    return network, int(out.shape[1])


def _build(index: int, layer: Layer) -> nn.Module:
    factory = LAYERS[layer.l_type]
    accepted = [name for name in inspect.signature(factory.__init__).parameters if name not in _INTERNAL]
    if unknown := sorted(layer.structure.keys() - set(accepted)):
        raise Invalid(
            f"Layer {index} ({layer.l_type}): unknown structure key {', '.join(unknown)}. "
            f"Known: {', '.join(accepted) or 'none'}."
        )
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in layer.structure.items()}
    for key, value in arguments.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise Invalid(f"Layer {index} ({layer.l_type}): {key} must be a finite number.")
    try:
        return factory(**arguments)
    except TORCH_ERRORS as error:
        raise Invalid(f"Layer {index} ({layer.l_type}): {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix(f"{type(error).__name__}: ")
