"""The table of layers: what each exact layer type becomes, or why it cannot."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode
from keras_qat.lowering.activation import lower_relu, lower_relu6, lower_softmax
from keras_qat.lowering.affine import lower_affine
from keras_qat.lowering.context import LoweringContext, Value
from keras_qat.lowering.merge import (
    lower_add,
    lower_concatenate,
    lower_maximum,
    lower_minimum,
    lower_multiply,
    lower_subtract,
)
from keras_qat.lowering.pointwise import lower_pointwise
from keras_qat.lowering.pooling import (
    lower_average_pooling,
    lower_global_average,
    lower_global_max,
    lower_max_pooling,
)
from keras_qat.lowering.shape import (
    lower_cropping,
    lower_identity,
    lower_interpolation,
    lower_permute,
    lower_reshape,
    lower_upsampling,
    lower_zero_padding,
)
from keras_qat.wrappers import (
    QuantizeActivation,
    QuantizeAdd,
    QuantizeBatchNormalization,
    QuantizeConv1D,
    QuantizeConv1DTranspose,
    QuantizeConv2D,
    QuantizeConv2DTranspose,
    QuantizeDense,
    QuantizeDepthwiseConv1D,
    QuantizeDepthwiseConv2D,
    QuantizeELU,
    QuantizeLeakyReLU,
    QuantizePReLU,
    QuantizeReLU,
    QuantizeRescaling,
    QuantizeSubtract,
    QuantizeWrapper,
    approximate_gelu,
)

layers = keras.layers

LowerFunction = Callable[[Any, list[Value], LoweringContext], Value]
AVERAGE_POOLING = (layers.AveragePooling1D, layers.AveragePooling2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
_LARGEST_AVERAGE_WINDOW = 256
_ACTIVATION_LAYERS = (layers.Activation, QuantizeActivation)


class Output(enum.Enum):
    """Where the grid of a layer's output comes from."""

    QUANTIZE = "a quantizer of its own"
    SAME_AS_INPUT = "the input's grid; every value is on it already"
    ROUND_TO_INPUT = "the input's grid; values are rounded to it again"
    SHARED = "one grid with all inputs, whose quantizers become one"
    FIXED = "the runtimes' own grid"


class Stage(enum.Enum):
    """What a tensor without a grid is, and so which layers may still join the op that makes it."""

    LINEAR = "weights applied; BatchNormalization and an activation may join"
    SUM = "a sum or a product of tensors; an activation may join"
    COMPLETE = "a quantizer must follow"
    FLOAT = "left in float by the user"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a layer type becomes.

    Attributes:
        output: where the grid of its output comes from.
        lower: the layer in integers; weight layers state it in their wrapper.
        wrapper: the wrapper of a weight layer.
        yields: the stage of its output (for `Output.QUANTIZE`).
        joins: stages of an input that it fuses with, with no quantizer in between.
        minimum_bits: its output deserves at least so many bits.
        wide_inputs: what enters it gets the config's `add_bits`.
        unsigned: its output is never negative.
        signed: its output can be negative, whatever its inputs are.
        stand_in: makes the layer that stands for it where it is an op of its own.
    """

    output: Output
    lower: LowerFunction | None = None
    wrapper: type[QuantizeWrapper] | None = None
    yields: Stage = Stage.COMPLETE
    joins: frozenset[Stage] = frozenset()
    minimum_bits: int = 1
    wide_inputs: bool = False
    unsigned: bool = False
    signed: bool = False
    stand_in: Callable[[Any], Any] | None = None


def _as(kind: type) -> Callable[[Any], Any]:
    """Makes a layer of another type with the same configuration."""
    return lambda layer: kind.from_config(layer.get_config())


def _weights(wrapper: type[QuantizeWrapper]) -> Rule:
    return Rule(Output.QUANTIZE, wrapper=wrapper, yields=Stage.LINEAR)


def _pointwise(kind: type, unsigned: bool = False, signed: bool = False) -> Rule:
    return Rule(
        Output.QUANTIZE,
        lower_pointwise,
        wide_inputs=True,
        unsigned=unsigned,
        signed=signed,
        stand_in=_as(kind),
    )


_ACTIVATION_JOINS = frozenset({Stage.LINEAR, Stage.SUM})
_RELU = Rule(Output.SAME_AS_INPUT, lower_relu, joins=_ACTIVATION_JOINS, unsigned=True)
_RELU6 = Rule(Output.ROUND_TO_INPUT, lower_relu6, joins=_ACTIVATION_JOINS, unsigned=True)
_SOFTMAX = Rule(Output.FIXED, lower_softmax, unsigned=True)
_IDENTITY = Rule(Output.SAME_AS_INPUT, lower_identity)
_MULTIPLY = Rule(Output.QUANTIZE, lower_multiply, yields=Stage.SUM, wide_inputs=True)
_ADD = dataclasses.replace(_MULTIPLY, lower=lower_add, stand_in=_as(QuantizeAdd))
_SUBTRACT = dataclasses.replace(
    _MULTIPLY, lower=lower_subtract, stand_in=_as(QuantizeSubtract), signed=True
)
_AFFINE = Rule(
    Output.QUANTIZE,
    lower_affine,
    yields=Stage.LINEAR,
    joins=frozenset({Stage.LINEAR}),
    wide_inputs=True,
    stand_in=QuantizeRescaling.of,
)
_BATCH_NORMALIZATION = dataclasses.replace(_AFFINE, stand_in=_as(QuantizeBatchNormalization))
_LEAKY_RELU, _PRELU = _pointwise(QuantizeLeakyReLU), _pointwise(QuantizePReLU)
_ELU = _pointwise(QuantizeELU)
_GLOBAL_AVERAGE = Rule(Output.QUANTIZE, lower_global_average, minimum_bits=8)
_MAX_POOLING = Rule(Output.SAME_AS_INPUT, lower_max_pooling)
_AVERAGE_POOLING = Rule(Output.ROUND_TO_INPUT, lower_average_pooling)
_GLOBAL_MAX = Rule(Output.SAME_AS_INPUT, lower_global_max)
_CROPPING = Rule(Output.SAME_AS_INPUT, lower_cropping)
_UPSAMPLING = Rule(Output.SAME_AS_INPUT, lower_upsampling)
_INTERPOLATION = Rule(Output.ROUND_TO_INPUT, lower_interpolation)
_ZERO_PADDING = Rule(Output.SAME_AS_INPUT, lower_zero_padding)

RULES: dict[type, Rule] = {
    layers.Conv1D: _weights(QuantizeConv1D),
    layers.Conv1DTranspose: _weights(QuantizeConv1DTranspose),
    layers.Conv2D: _weights(QuantizeConv2D),
    layers.Conv2DTranspose: _weights(QuantizeConv2DTranspose),
    layers.DepthwiseConv1D: _weights(QuantizeDepthwiseConv1D),
    layers.DepthwiseConv2D: _weights(QuantizeDepthwiseConv2D),
    layers.Dense: _weights(QuantizeDense),
    layers.SeparableConv1D: Rule(Output.QUANTIZE),  # decomposed before anything else
    layers.SeparableConv2D: Rule(Output.QUANTIZE),
    layers.BatchNormalization: _BATCH_NORMALIZATION,
    QuantizeBatchNormalization: _BATCH_NORMALIZATION,
    layers.Normalization: _AFFINE,
    layers.Rescaling: _AFFINE,
    QuantizeRescaling: _AFFINE,
    layers.Add: _ADD,  # of more tensors than two: chained first, as Multiply
    layers.Subtract: _SUBTRACT,
    layers.Multiply: _MULTIPLY,
    layers.Average: Rule(Output.QUANTIZE),  # becomes an Add and a Rescaling
    QuantizeAdd: _ADD,
    QuantizeSubtract: _SUBTRACT,
    layers.Concatenate: Rule(Output.SHARED, lower_concatenate),
    layers.Maximum: Rule(Output.SHARED, lower_maximum),
    layers.Minimum: Rule(Output.SHARED, lower_minimum),
    layers.MaxPooling1D: _MAX_POOLING,
    layers.MaxPooling2D: _MAX_POOLING,
    layers.AveragePooling1D: _AVERAGE_POOLING,
    layers.AveragePooling2D: _AVERAGE_POOLING,
    layers.GlobalAveragePooling1D: _GLOBAL_AVERAGE,
    layers.GlobalAveragePooling2D: _GLOBAL_AVERAGE,
    layers.GlobalMaxPooling1D: _GLOBAL_MAX,
    layers.GlobalMaxPooling2D: _GLOBAL_MAX,
    layers.Cropping1D: _CROPPING,
    layers.Cropping2D: _CROPPING,
    layers.Permute: Rule(Output.SAME_AS_INPUT, lower_permute),
    layers.UpSampling1D: _UPSAMPLING,
    layers.UpSampling2D: _UPSAMPLING,
    layers.Flatten: Rule(Output.SAME_AS_INPUT, lower_reshape),
    layers.Reshape: Rule(Output.SAME_AS_INPUT, lower_reshape),
    layers.ZeroPadding1D: _ZERO_PADDING,
    layers.ZeroPadding2D: _ZERO_PADDING,
    layers.Dropout: _IDENTITY,
    layers.Softmax: _SOFTMAX,
    layers.ELU: _ELU,
    QuantizeELU: _ELU,
    layers.LeakyReLU: _LEAKY_RELU,
    QuantizeLeakyReLU: _LEAKY_RELU,
    layers.PReLU: _PRELU,
    QuantizePReLU: _PRELU,
}

MERGES = (
    *(layers.Add, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Multiply, layers.Subtract),
)

_NEVER_NEGATIVE = ("exponential", "hard_sigmoid", "sigmoid", "softplus", "sparse_plus")
_NEVER_NEGATIVE += ("sparse_sigmoid", "squareplus")
_ZERO_AT_ZERO = ("celu", "elu", "gelu", "hard_shrink", "hard_silu", "hard_tanh", "leaky_relu")
_ZERO_AT_ZERO += ("mish", "selu", "silu", "soft_shrink", "softsign", "tanh", "tanh_shrink")
_ZERO_AT_ZERO += (approximate_gelu.__name__,)

ACTIVATIONS: dict[str, Rule] = {
    "linear": _IDENTITY,
    "relu": _RELU,
    "relu6": _RELU6,
    "softmax": _SOFTMAX,
    "log_sigmoid": _pointwise(QuantizeActivation, signed=True),
    **{name: _pointwise(QuantizeActivation, unsigned=True) for name in _NEVER_NEGATIVE},
    **{name: _pointwise(QuantizeActivation) for name in _ZERO_AT_ZERO},
}


def supported_layers() -> list[str]:
    """Names of the layers and activations that have a rule, for people.

    >>> supported_layers()[:3]
    ['Activation(celu)', 'Activation(elu)', 'Activation(exponential)']
    """
    kinds = (*RULES, layers.ReLU)
    types = [kind.__name__ for kind in kinds if kind.__module__.startswith("keras.")]
    names = [name for name in ACTIVATIONS if hasattr(keras.activations, name)]
    return sorted([*types, *(f"Activation({name})" for name in names)])


class UnsupportedLayerError(NotImplementedError):
    """A model with layers that have no rule; the message names them all and the ways out."""


def rule_of(node: GraphNode) -> Rule:
    """The rule of a layer at its place in a graph, looked up by its exact type.

    Raises:
        UnsupportedLayerError: no rule; the message says why.
    """
    layer, kind = node.operation, type(node.operation)
    if kind in _ACTIVATION_LAYERS:
        rule = _activation_rule(layer)
    elif kind in (layers.ReLU, QuantizeReLU):
        rule = _relu_rule(layer)
    elif kind in AVERAGE_POOLING and _covers_everything(layer, node):
        rule = _GLOBAL_AVERAGE
    elif kind is layers.UpSampling2D and layer.interpolation == "bilinear":
        rule = _INTERPOLATION
    else:
        rule = RULES.get(kind)
    if not isinstance(layer, layers.Layer):
        reason = "this raw operation has no layer that stands for it; use a supported layer"
    else:
        known = rule is not None or kind in _ACTIVATION_LAYERS
        reason = _why_not(node) if known else "no rule for this layer"
    if rule is None or reason:
        raise UnsupportedLayerError(f"{layer.name!r} ({kind.__name__}): {reason}")
    return rule


def _activation_rule(layer: Any) -> Rule | None:
    """The rule of a layer's function: by its name, if it is the one that Keras has by that name.

    A copy of the layer has Keras' function. `keras.ops.gelu` differs from that of its name.
    """
    activation = layer.activation
    if isinstance(activation, layers.Layer):
        if activation.weights or type(layer) in _ACTIVATION_LAYERS:
            return None
        is_relu = type(activation) is layers.ReLU
        return _relu_rule(activation) if is_relu else RULES.get(type(activation))
    name = _activation_name(layer)
    rule = ACTIVATIONS.get(name)
    if rule is None or rule.lower is not lower_pointwise or activation is approximate_gelu:
        return rule
    own = [getattr(keras.activations, name, None)]
    own += [getattr(keras.ops, name, None)] if name != "gelu" else []
    return rule if any(activation is each for each in own) else None


def _activation_name(layer: Any) -> str:
    name: str = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    return name


def _relu_rule(layer: Any) -> Rule:
    slope, threshold = float(layer.negative_slope), float(layer.threshold)
    if slope == threshold == 0 and layer.max_value in (None, 6.0):
        return _RELU if layer.max_value is None else _RELU6
    return _pointwise(QuantizeReLU, unsigned=slope == 0, signed=slope * threshold > 0)


def _covers_everything(layer: Any, node: GraphNode) -> bool:
    return tuple(layer.pool_size) == tuple(node.inputs[0].shape[1:-1])


def joinable(shapes: Sequence[tuple[int | None, ...]]) -> bool:
    """Whether a merge layer of these tensors can be deployed: sizes of each axis are equal or 1.

    As in Keras, a tensor of lower rank has sizes of 1 behind its batch.
    """
    rank = max(map(len, shapes))
    if len(shapes) < 2 or any(None in shape[1:] for shape in shapes if len(shape) < rank):
        return False
    full = [(shape[0], *(1,) * (rank - len(shape)), *shape[1:]) for shape in shapes]
    return all(len({*sizes} - {1}) <= 1 for sizes in zip(*full, strict=True))


def _why_not(node: GraphNode) -> str:
    """What makes a layer, of a type that has a rule, impossible here; empty if nothing does."""
    layer, shape = node.operation, node.inputs[0].shape
    last_axis = (-1, len(shape) - 1)
    if hasattr(layer, "activation") and _activation_rule(layer) is None:
        return (
            f"no rule for its activation {_activation_name(layer)!r}; "
            "take a function of one number of keras.activations"
        )
    if isinstance(layer, layers.PReLU) and math.prod(layer.alpha.shape) != 1:
        return "only one slope has a rule; share it (shared_axes=[1, 2, 3]), or use LeakyReLU"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "only data_format='channels_last' can be deployed"
    if isinstance(layer, TRANSPOSED) and (reason := _why_not_transposed(layer)):
        return reason
    if isinstance(layer, layers.UpSampling2D) and (reason := _why_not_interpolated(layer)):
        return reason
    if isinstance(layer, layers.BatchNormalization) and layer.axis not in last_axis:
        return "only the last axis can be normalized"
    if isinstance(layer, layers.Concatenate) and layer.axis in (0, -len(shape)):
        return "examples of a batch cannot be joined"
    if isinstance(layer, layers.Normalization) and layer.axis not in ((), (-1,), (len(shape) - 1,)):
        return "only the last axis, or all at once, can be normalized"
    if isinstance(layer, layers.Rescaling):
        sizes = {np.size(layer.scale), np.size(layer.offset)}
        if not sizes <= {1, shape[-1]}:
            return "its scale and offset must be one number, or one for each channel"
    if isinstance(layer, layers.Softmax) and layer.axis not in last_axis:
        return "only a softmax over the last axis has a rule"
    if isinstance(layer, MERGES) and not joinable([tensor.shape for tensor in node.inputs]):
        shapes = ", ".join(str(tensor.shape) for tensor in node.inputs)
        return f"it needs two tensors or more, with equal sizes or sizes of 1, not {shapes}"
    if isinstance(layer, AVERAGE_POOLING) and not _covers_everything(layer, node):
        window = math.prod(layer.pool_size)
        if window > _LARGEST_AVERAGE_WINDOW:
            return f"an average over {window} values has no rule (at most 256, or all of them)"
    return ""


def _why_not_interpolated(layer: Any) -> str:
    if layer.interpolation not in ("nearest", "bilinear"):
        return f"interpolation='nearest' and 'bilinear' have a rule, not {layer.interpolation!r}"
    exact = all(size.bit_count() == 1 for size in layer.size)
    if layer.interpolation == "bilinear" and not (exact and math.prod(layer.size) <= 256):
        return (
            "interpolation='bilinear' has a rule for sizes that are powers of two, with a product "
            f"up to 256, not {tuple(layer.size)}"
        )
    return ""


def _why_not_transposed(layer: Any) -> str:
    if any(rate != 1 for rate in layer.dilation_rate):
        return "runtimes have no transposed convolution with a dilation"
    windows = list(zip(layer.kernel_size, layer.strides, strict=True))
    holes = any(size < stride for size, stride in windows)
    padded = any(size > stride for size, stride in windows) or layer.output_padding is not None
    if layer.padding == "same" and holes and padded:
        return (
            "with padding='same' a kernel smaller than the strides along one axis has no rule; "
            "use padding='valid' and a Cropping layer, or a larger kernel_size"
        )
    return ""
