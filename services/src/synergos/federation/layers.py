"""Models from lists of layers, built from torch by allow-list and checked before anything is computed."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from synergos.errors import Invalid
from synergos.federation.wording import choose, must

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

_RECURRENT = (
    "a recurrent layer reads a sequence step by step and gives a state beside its output, and neither a table's row, "
    "nor an image, nor the counts of words are a sequence. Use Linear layers, or Conv1d or Conv2d where neighbours "
    "belong together"
)
_INDEXES = "it looks up whole-number indexes, and what a model is given are scaled numbers. Use Linear layers"
_PAIR = "it takes two inputs, and a model here is one chain. Use Linear layers"
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
# Activations that spread 1 over the outputs, and so say nothing about a single one.
OVER_CLASSES = frozenset({"softmax", "softmin", "log_softmax"})
# A closing layer of these types says the same as the activation of that name.
_CLOSING = {
    **{"Softmax": "softmax", "Softmin": "softmin", "LogSoftmax": "log_softmax"},
    **{"Sigmoid": "sigmoid", "LogSigmoid": "logsigmoid", "Hardsigmoid": "hardsigmoid"},
}
# What may follow the final activation, for it changes no value.
_NEUTRAL = frozenset({"Flatten", "Identity"})
# Layers that are told how many values or channels they take, and give.
_TAKES = {"Linear": "in_features", "GroupNorm": "num_channels"}
_GIVES = {"Linear": "out_features"}
for _n in ("1d", "2d", "3d"):
    _TAKES |= {f"{_kind}{_n}": "in_channels" for _kind in ("Conv", "ConvTranspose")}
    _TAKES |= {f"{_kind}{_n}": "num_features" for _kind in ("BatchNorm", "InstanceNorm")}
    _GIVES |= {f"{_kind}{_n}": "out_channels" for _kind in ("Conv", "ConvTranspose")}
# What torch raises for arguments that it cannot use.
TORCH_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError, ArithmeticError)
_SIZES = frozenset(_TAKES.values()) | frozenset(_GIVES.values())
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
            be computed on logits. A Flatten layer behind it comes before it.
        footprint: values per row that the layers hand on, as found by `trace`; 0 before.
    """

    def __init__(self, model: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        layers = parse(model)
        self.footprint = 0
        self._chain: list[tuple[nn.Module, Activation]] = []
        for index, layer in enumerate(layers):
            module = _build(index, layer)
            self.add_module(f"nnl_{index}_{layer.l_type.lower()}", module)
            self._chain.append((module, ACTIVATIONS[layer.activation or ""]))
        last = _last(layers)
        self.final = _activation(layers[last])
        module = nn.Identity() if not layers[last].activation and self.final else self._chain[last][0]
        self._chain[last] = (module, _identity)
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
        self.footprint = x.numel() // rows
        for index, ((name, module), (step, activation)) in enumerate(
            zip(self.named_children(), self._chain, strict=True)
        ):
            shape = tuple(x.shape[1:])
            where = f"Layer {index} ({type(module).__name__}, {name})"
            if isinstance(module, nn.modules.conv._ConvNd) and len(shape) != 1 + len(module.kernel_size):
                sizes = ", ".join(["size"] * len(module.kernel_size))
                raise Invalid(
                    f"{where} needs rows of shape (channels, {sizes}), and these have shape {shape}: "
                    "put an Unflatten layer before it, or use Linear layers."
                )
            dim = getattr(module, "dim", None)
            if isinstance(dim, int) and dim in (0, -x.dim()):
                raise Invalid(f"{where} works across rows, along dim {dim}: use dim 1.")
            try:
                x = activation(step(x))
            except TORCH_ERRORS as error:
                reason = _mismatch(module, x.shape) or _first_line(error)
                raise Invalid(f"{where} cannot take rows of shape {shape}: {reason}") from None
            if not isinstance(x, Tensor):
                raise Invalid(f"{where} gives more than one output; layers must turn one tensor into one tensor.")
            if x.dim() == 0 or x.shape[0] != rows:
                raise Invalid(f"{where} mixes rows: {rows} rows of shape {shape} became {tuple(x.shape)}.")
            if x.numel() // rows > MAX_ACTIVATIONS:
                raise Invalid(f"{where} gives {x.numel() // rows} values per row; the limit is {MAX_ACTIVATIONS}.")
            self.footprint += x.numel() // rows
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
            field = ".".join(map(str, first["loc"])) or "a layer"
            known = ", ".join(Layer.model_fields)
            raise Invalid(f"Layer {index}: {field} {must(first)}. A layer has the keys {known}.") from None
        if layer.l_type in REFUSED:
            raise Invalid(f"Layer {index}: {layer.l_type} is not supported: {REFUSED[layer.l_type]}.")
        if layer.l_type not in LAYERS:
            raise Invalid(
                f"Layer {index}: {layer.l_type!r} is not a supported layer type. {choose(layer.l_type, LAYERS)}"
            )
        if (layer.activation or "") not in ACTIVATIONS:
            names = [*filter(None, ACTIVATIONS), "null for none"]
            raise Invalid(
                f"Layer {index} ({layer.l_type}): {layer.activation!r} is not a supported activation. "
                f"{choose(layer.activation, names)}"
            )
        layers.append(layer)
    return layers


def outline(model: Sequence[Mapping[str, Any]]) -> Network:
    """Return `model` without memory for its weights; raises `Invalid` for what is unknown, empty or too large."""
    with torch.device("meta"):
        network = Network(model)
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MAX_PARAMETERS:
        raise Invalid(f"The model has {count} parameters; the limit is {MAX_PARAMETERS}: make its layers smaller.")
    if count == 0:
        raise Invalid(
            "The model has no layer with weights, so there is nothing to train: add a Linear layer, for instance."
        )
    return network


def probe(model: Sequence[Mapping[str, Any]], row_shape: tuple[int, ...]) -> tuple[Network, int]:
    """Return the `outline` of `model` and its number of outputs for rows of `row_shape`, from shapes alone.

    Raises `Invalid` naming the first layer that does not fit.
    """
    network = outline(model)
    with torch.no_grad():
        # Twice, because a layer that takes rows for channels may fit one number of rows by chance.
        for rows in (2, 3):
            out = network.trace(torch.empty((rows, *row_shape), device="meta"))
    if out.dim() != 2:
        raise Invalid(
            f"The last layer gives rows of shape {tuple(out.shape[1:])}, and a model gives one list of outputs per "
            "row: put a Flatten layer before the first Linear one."
        )
    return network, int(out.shape[1])


def resize(model: Sequence[Mapping[str, Any]], row_shape: tuple[int, ...], outputs: int) -> list[dict[str, Any]]:
    """Return a copy of `model` whose layers take what they are given, from `row_shape` to `outputs`, where possible.

    Found by dry runs without memory. Only the last layer with outputs of its own gets another number of them.
    """
    entries = [copy.deepcopy(dict(entry)) for entry in model]
    try:
        parse(entries)
    except Invalid:
        return entries
    for entry in entries:
        entry["structure"] = dict(entry.get("structure") or {})
    width = _dry_run(entries, row_shape)
    last = max((index for index, entry in enumerate(entries) if entry["l_type"] in _GIVES), default=None)
    if last is None or width == outputs:
        return entries
    structure, key = entries[last]["structure"], _GIVES[entries[last]["l_type"]]
    own = structure.get(key)
    for given in (own, outputs):
        structure[key] = given
        if type(given) is int and (width := _dry_run(entries, row_shape)):
            # Behind the layer the width may be a multiple: of the pixels per channel, for instance.
            needed = Fraction(outputs * given, width)
            structure[key] = int(needed)
            if needed.denominator == 1 and _dry_run(entries, row_shape) == outputs:
                return entries
    structure[key] = own
    if own is None:
        del structure[key]
    _dry_run(entries, row_shape)
    return entries


def closing(model: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the final activation of `model`, "" for none."""
    layers = parse(model)
    return _activation(layers[_last(layers)])


def close_with(model: list[dict[str, Any]], activation: str) -> None:
    """Give `model` the final activation softmax, sigmoid or, with "", none, where it has its final activation now."""
    layers = parse(model)
    last = _last(layers)
    if _activation(layers[last]) == activation:
        return
    if layers[last].activation or layers[last].l_type not in _CLOSING:
        model[last]["activation"] = activation
    else:
        model[last]["l_type"] = {"softmax": "Softmax", "sigmoid": "Sigmoid", "": "Identity"}[activation]
        model[last]["structure"] = {"dim": 1} if activation == "softmax" else {}


def _last(layers: Sequence[Layer]) -> int:
    """Return the index of the layer with the final activation."""
    index = len(layers) - 1
    while index and layers[index].l_type in _NEUTRAL and not layers[index].activation:
        index -= 1
    return index


def _activation(layer: Layer) -> str:
    return layer.activation or _CLOSING.get(layer.l_type, "")


def _dry_run(entries: list[dict[str, Any]], row_shape: tuple[int, ...]) -> int | None:
    """Write into `entries` what each layer is given; return the outputs per row, None if the run ends before."""
    x = torch.empty((3, *row_shape), device="meta")
    for index, entry in enumerate(entries):
        entry["structure"].update(_given(entry["l_type"], entry["structure"], x.shape))
        try:
            with torch.device("meta"), torch.no_grad():
                module = _build(index, Layer.model_validate(entry))
                x = ACTIVATIONS[entry.get("activation") or ""](module(x))
        except (Invalid, *TORCH_ERRORS):
            return None
        if not isinstance(x, Tensor) or x.dim() < 2:
            return None
    return int(x.shape[1]) if x.dim() == 2 else None


def _given(l_type: str, structure: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of a layer that follow from the `shape` (rows included) that it is given."""
    if "Conv" in l_type and len(shape) != 2 + int(l_type[-2]):
        return {}
    if l_type in _TAKES:
        return {_TAKES[l_type]: shape[-1 if l_type == "Linear" else 1]}
    if l_type in ("LayerNorm", "RMSNorm"):
        own = structure.get("normalized_shape")
        return {"normalized_shape": list(shape[-len(own) :]) if isinstance(own, list) and own else shape[-1]}
    if l_type == "PReLU" and structure.get("num_parameters", 1) != 1:
        return {"num_parameters": shape[1]}
    if l_type == "Unflatten" and structure.get("dim") == 1 and len(shape) == 2:
        sizes = structure.get("unflattened_size")
        if isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes):
            rest = math.prod(sizes[:-1])
            if shape[1] % rest == 0:
                return {"unflattened_size": [*sizes[:-1], shape[1] // rest]}
    return {}


def _build(index: int, layer: Layer) -> nn.Module:
    factory = LAYERS[layer.l_type]
    accepted = [name for name in inspect.signature(factory.__init__).parameters if name not in _INTERNAL]
    if unknown := sorted(layer.structure.keys() - set(accepted)):
        raise Invalid(
            f"Layer {index} ({layer.l_type}): unknown structure key {', '.join(unknown)}. "
            f"Known: {', '.join(accepted) or 'none'}."
        )
    if missing := [name for name in accepted if name not in layer.structure and name in _required(factory)]:
        raise Invalid(f"Layer {index} ({layer.l_type}) needs the structure key {', '.join(missing)}.")
    for key in _SIZES & layer.structure.keys():
        size = layer.structure[key]
        if type(size) is not int or not 0 < size < 2**31:
            raise Invalid(f"Layer {index} ({layer.l_type}): {key} = {size!r} must be a whole number from 1.")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in layer.structure.items()}
    for key, value in arguments.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise Invalid(f"Layer {index} ({layer.l_type}): {key} must be a finite number.")
    try:
        return factory(**arguments)
    except TORCH_ERRORS as error:
        raise Invalid(f"Layer {index} ({layer.l_type}): {_first_line(error)}") from None


def _required(factory: type[nn.Module]) -> set[str]:
    parameters = inspect.signature(factory.__init__).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name for each in parameters if each.default is each.empty and each.kind not in kinds}


def _mismatch(module: nn.Module, shape: Sequence[int]) -> str:
    """Return what a layer of another size would say of rows of `shape` (rows included), "" if sizes agree."""
    key = _TAKES.get(type(module).__name__, "")
    given = shape[-1 if key == "in_features" else 1] if key else None
    if getattr(module, key, given) == given:
        return ""
    return f"{key} is {getattr(module, key)} and must be {given}. Correct it, or align with auto_fix."


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix(f"{type(error).__name__}: ")
