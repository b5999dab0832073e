"""The table of layers: what each exact layer type becomes, or why it is not supported."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras

from keras_qat.copying import builtin_name, copy_of
from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import GraphNode
from keras_qat.layer_rules.equal_operations import why_no_layer
from keras_qat.layer_rules.inherited import computing_kind
from keras_qat.layer_rules.restrictions import (
    AVERAGE_POOLING,
    covers_everything,
    unsupported_reason,
)
from keras_qat.layer_rules.rule import Output, Rule, Stage
from keras_qat.lowering.activation import lower_argmax, lower_relu, lower_relu6, lower_softmax
from keras_qat.lowering.affine import lower_affine
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
    lower_center_crop,
    lower_cropping,
    lower_identity,
    lower_interpolation,
    lower_permute,
    lower_repeat_vector,
    lower_reshape,
    lower_take,
    lower_upsampling,
    lower_zero_padding,
)
from keras_qat.quantized_layers import (
    ArgMax,
    CastTo,
    Function,
    LearnedRescaling,
    LivingBranch,
    LivingIdentity,
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
    QuantizeEinsumDense,
    QuantizeELU,
    QuantizeEmbedding,
    QuantizeFunction,
    QuantizeGlobalAveragePooling1D,
    QuantizeGlobalAveragePooling2D,
    QuantizeLeakyReLU,
    QuantizeMultiHeadAttention,
    QuantizePReLU,
    QuantizeReLU,
    QuantizeRescaling,
    QuantizeSharedPReLU,
    QuantizeSubtract,
    QuantizeWrapper,
    StopGradient,
    Take,
    absolute,
    approximate_gelu,
    square,
)

layers = keras.layers

_ACTIVATION_LAYERS = (layers.Activation, QuantizeActivation)
_WITH_WEIGHTS = (layers.BatchNormalization, layers.Normalization, layers.PReLU)


@functools.cache  # one object for each type, so that equal rules, and plans, compare equal
def _as(kind: type) -> Callable[[Any], Any]:
    """Makes a layer of another type with the same configuration."""
    return lambda layer: copy_of(layer, kind)


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
_RELU = Rule(
    Output.SAME_AS_INPUT, lower_relu, joins=_ACTIVATION_JOINS, unsigned=True, ceiling=math.inf
)
_RELU6 = dataclasses.replace(_RELU, output=Output.ROUND_TO_INPUT, lower=lower_relu6, ceiling=6.0)
_SOFTMAX = Rule(Output.FIXED, lower_softmax, unsigned=True)
_IDENTITY = Rule(Output.SAME_AS_INPUT, lower_identity)
_AUGMENTATION = Rule(Output.ROUND_TO_INPUT, lower_identity)
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
_LEAKY_RELU, _SHARED_PRELU = _pointwise(QuantizeLeakyReLU), _pointwise(QuantizeSharedPReLU)
_PRELU = Rule(Output.QUANTIZE, wide_inputs=True, stand_in=QuantizePReLU.of)
_ELU = _pointwise(QuantizeELU)
_FUNCTION = _pointwise(QuantizeFunction)
_UNSUPPORTED = Rule(Output.QUANTIZE)
_GLOBAL_AVERAGE = Rule(Output.QUANTIZE, lower_global_average, minimum_bits=8)
_MEAN_1D = dataclasses.replace(_GLOBAL_AVERAGE, stand_in=_as(QuantizeGlobalAveragePooling1D))
_MEAN_2D = dataclasses.replace(_GLOBAL_AVERAGE, stand_in=_as(QuantizeGlobalAveragePooling2D))
_MAX_POOLING = Rule(Output.SAME_AS_INPUT, lower_max_pooling)
_AVERAGE_POOLING = Rule(Output.ROUND_TO_INPUT, lower_average_pooling)
_GLOBAL_MAX = Rule(Output.SAME_AS_INPUT, lower_global_max)
_CROPPING = Rule(Output.SAME_AS_INPUT, lower_cropping)
_UPSAMPLING = Rule(Output.SAME_AS_INPUT, lower_upsampling)
_INTERPOLATION = Rule(Output.ROUND_TO_INPUT, lower_interpolation)
_ATTENTION = Rule(Output.FLOAT, wrapper=QuantizeMultiHeadAttention)
_ZERO_PADDING = Rule(Output.SAME_AS_INPUT, lower_zero_padding)

_NOTHING_IN_INFERENCE = (
    *(StopGradient, LivingIdentity, layers.ActivityRegularization, layers.AlphaDropout),
    *(layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.Identity),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D),
)
_AUGMENTATIONS = (
    *(layers.AugMix, layers.RandAugment, layers.RandomBrightness, layers.RandomColorDegeneration),
    *(layers.RandomColorJitter, layers.RandomContrast, layers.RandomCrop),
    layers.RandomElasticTransform,
    *(layers.RandomErasing, layers.RandomFlip, layers.RandomGaussianBlur, layers.RandomGrayscale),
    *(layers.RandomHue, layers.RandomInvert, layers.RandomPerspective, layers.RandomPosterization),
    *(layers.RandomRotation, layers.RandomSaturation, layers.RandomSharpness, layers.RandomShear),
    *(layers.RandomTranslation, layers.RandomZoom),
)

RULES: dict[type, Rule] = {
    layers.Conv1D: _weights(QuantizeConv1D),
    layers.Conv1DTranspose: _weights(QuantizeConv1DTranspose),
    layers.Conv2D: _weights(QuantizeConv2D),
    layers.Conv2DTranspose: _weights(QuantizeConv2DTranspose),
    layers.DepthwiseConv1D: _weights(QuantizeDepthwiseConv1D),
    layers.DepthwiseConv2D: _weights(QuantizeDepthwiseConv2D),
    layers.Dense: _weights(QuantizeDense),
    layers.SeparableConv1D: Rule(Output.QUANTIZE),  # decomposed before rules apply
    layers.SeparableConv2D: Rule(Output.QUANTIZE),
    layers.BatchNormalization: _BATCH_NORMALIZATION,
    QuantizeBatchNormalization: _BATCH_NORMALIZATION,
    layers.Normalization: _AFFINE,
    layers.Rescaling: _AFFINE,
    QuantizeRescaling: _AFFINE,
    LearnedRescaling: dataclasses.replace(_AFFINE, stand_in=None),
    layers.Add: _ADD,  # like Multiply, chained before rules apply if it has more than two inputs
    layers.Subtract: _SUBTRACT,
    layers.Multiply: _MULTIPLY,
    layers.Average: Rule(Output.QUANTIZE),  # becomes an Add and a Rescaling before rules apply
    QuantizeAdd: _ADD,
    QuantizeSubtract: _SUBTRACT,
    layers.Concatenate: Rule(Output.SHARED, lower_concatenate),
    layers.Maximum: Rule(Output.SHARED, lower_maximum),
    layers.Minimum: Rule(Output.SHARED, lower_minimum),
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D), _MAX_POOLING),
    layers.AveragePooling1D: _AVERAGE_POOLING,
    layers.AveragePooling2D: _AVERAGE_POOLING,
    layers.GlobalAveragePooling1D: _MEAN_1D,
    layers.GlobalAveragePooling2D: _MEAN_2D,
    QuantizeGlobalAveragePooling1D: _MEAN_1D,
    QuantizeGlobalAveragePooling2D: _MEAN_2D,
    layers.GlobalMaxPooling1D: _GLOBAL_MAX,
    layers.GlobalMaxPooling2D: _GLOBAL_MAX,
    layers.Cropping1D: _CROPPING,
    layers.Cropping2D: _CROPPING,
    layers.CenterCrop: Rule(Output.SAME_AS_INPUT, lower_center_crop),
    layers.RepeatVector: Rule(Output.SAME_AS_INPUT, lower_repeat_vector),
    ArgMax: Rule(Output.INDEX, lower_argmax, unsigned=True),
    Take: Rule(Output.SAME_AS_INPUT, lower_take),
    layers.Permute: Rule(Output.SAME_AS_INPUT, lower_permute),
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D), _UPSAMPLING),
    layers.Flatten: Rule(Output.SAME_AS_INPUT, lower_reshape),
    layers.Reshape: Rule(Output.SAME_AS_INPUT, lower_reshape),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D), _ZERO_PADDING),
    CastTo: dataclasses.replace(_IDENTITY, stand_in=CastTo.between_grids),
    **dict.fromkeys(_NOTHING_IN_INFERENCE, _IDENTITY),
    **dict.fromkeys(_AUGMENTATIONS, _AUGMENTATION),
    LivingBranch: _AUGMENTATION,
    layers.Softmax: _SOFTMAX,
    layers.TimeDistributed: Rule(Output.QUANTIZE),  # replaced by its layer before rules apply
    layers.ELU: _ELU,
    QuantizeELU: _ELU,
    Function: _FUNCTION,
    QuantizeFunction: _FUNCTION,
    layers.LeakyReLU: _LEAKY_RELU,
    QuantizeLeakyReLU: _LEAKY_RELU,
    layers.PReLU: _PRELU,
    QuantizePReLU: _PRELU,
    QuantizeSharedPReLU: _SHARED_PRELU,
    layers.EinsumDense: Rule(Output.FLOAT, wrapper=QuantizeEinsumDense),
    layers.Embedding: Rule(Output.FLOAT, wrapper=QuantizeEmbedding),
    layers.GroupQueryAttention: _ATTENTION,
    layers.Dot: Rule(Output.FLOAT),
    layers.GroupNormalization: Rule(Output.FLOAT),
    layers.LayerNormalization: Rule(Output.FLOAT),
    layers.RMSNormalization: Rule(Output.FLOAT),
    layers.UnitNormalization: Rule(Output.FLOAT),
    layers.MultiHeadAttention: _ATTENTION,
}

_NEVER_NEGATIVE = (
    *("exponential", "hard_sigmoid", "sigmoid", "softplus", "sparse_plus", "sparse_sigmoid"),
    *("squareplus", absolute.__name__, square.__name__),
)
_ZERO_AT_ZERO = (
    *("celu", "elu", "gelu", "hard_shrink", "hard_silu", "hard_tanh", "leaky_relu", "mish"),
    *("selu", "silu", "soft_shrink", "softsign", "tanh", "tanh_shrink"),
    approximate_gelu.__name__,
)
_OURS = (absolute, approximate_gelu, square)

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
    """Names of the layers and activations that have a rule.

    >>> supported_layers()[:3]
    ['Activation(celu)', 'Activation(elu)', 'Activation(exponential)']
    """
    kinds = (*RULES, layers.ReLU)
    types = [kind.__name__ for kind in kinds if kind.__module__.startswith("keras.")]
    names = [name for name in ACTIVATIONS if hasattr(keras.activations, name)]
    return sorted([*types, *(f"Activation({name})" for name in names)])


def rule_of(node: GraphNode) -> Rule:
    """The rule of a layer at its place in a graph, looked up by its exact type.

    Raises:
        UnsupportedLayerError: the layer has no rule here. The message says why.
    """
    layer = node.operation
    kind = type(layer) if type(layer) in RULES else computing_kind(layer)
    if not isinstance(layer, layers.Layer):
        reason = why_no_layer(kind.__name__)
        raise UnsupportedLayerError(f"{layer.name!r} ({kind.__name__}): {reason}")
    if kind in _ACTIVATION_LAYERS:
        rule = activation_rule(layer)
    elif kind in (layers.ReLU, QuantizeReLU):
        rule = _relu_rule(layer)
    elif kind is layers.PReLU and math.prod(layer.alpha.shape) == 1:
        rule = _SHARED_PRELU
    elif kind in AVERAGE_POOLING and covers_everything(layer, node):
        rule = _GLOBAL_AVERAGE
    elif kind in (Function, QuantizeFunction):
        rule = _function_rule(layer)
    elif kind is layers.UpSampling2D and layer.interpolation == "bilinear":
        rule = _INTERPOLATION
    else:
        rule = RULES.get(kind)
    known = rule is not None or kind in _ACTIVATION_LAYERS
    in_float = rule is not None and rule.output is Output.FLOAT
    reason = "" if in_float else _unsupported_reason(node) if known else "no rule for this layer"
    if rule is None or reason:
        raise UnsupportedLayerError(f"{layer.name!r} ({kind.__name__}): {reason}")
    return rule


def rule_or_float(node: GraphNode) -> Rule:
    """Like `rule_of`, but a layer without a rule gets one without `lower`: it stays in float."""
    try:
        return rule_of(node)
    except UnsupportedLayerError:
        return _UNSUPPORTED


def register_rule(layer_type: type[keras.layers.Layer], rule: Rule) -> None:
    """Teaches `quantize` a layer type, without its subclasses. It replaces an earlier rule.

    A layer that consists of other layers needs no rule: `quantize` takes it apart. For a layer that
    always stays in float, register `Rule(Output.FLOAT)`.

    Args:
        layer_type: a subclass of `keras.layers.Layer`.
        rule: where the grid of the layer's output comes from, and `lower(layer, operands,
            context)`, which states the layer in integer ops and returns the name of their output
            tensor. A rule of a layer in float has no `lower`.

    Raises:
        ValueError: `layer_type` is not a layer type, or `rule` is not a `Rule`.

    Example: a layer that reorders values on any grid.

    >>> import keras, keras_qat
    >>> from keras_qat.integer import ops
    >>> class Transposed(keras.layers.Layer):
    ...     def call(self, x):
    ...         return keras.ops.transpose(x, (0, 2, 1))
    >>> def lower(layer, operands, context):
    ...     return context.same_grid(ops.Transpose((operands[0],), context.name, (2, 1)))
    >>> register_rule(Transposed, Rule(Output.SAME_AS_INPUT, lower))
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, layers.Layer)):
        raise ValueError(
            f"layer_type must be a subclass of keras.layers.Layer. Received: {layer_type!r}"
        )
    if not isinstance(rule, Rule):
        raise ValueError(f"rule must be a keras_qat.Rule. Received: {rule!r}")
    RULES[layer_type] = rule


def _unsupported_reason(node: GraphNode) -> str:
    layer = node.operation
    ours = type(layer).__module__.startswith(("keras.", "keras_qat."))
    if ours and hasattr(layer, "activation") and activation_rule(layer) is None:
        said = f"no rule for its activation {_activation_name(layer)!r}; "
        if isinstance(layer.activation, layers.Layer):
            return said + "put that layer behind this one, as a layer of its own"
        return said + (
            "take a function of keras.activations, or one of keras.ops that runs on symbolic "
            "tensors"
        )
    if ours and isinstance(getattr(layer, "activation", None), layers.Layer):
        behind = dataclasses.replace(node, operation=layer.activation, inputs=node.outputs)
        if reason := unsupported_reason(behind):
            return f"its activation {layer.activation.name!r}: {reason}"
    return unsupported_reason(node)


def activation_rule(layer: Any) -> Rule | None:
    """The rule of the layer's activation, if that is a layer, or a function of Keras or of ours."""
    activation = layer.activation
    if isinstance(activation, layers.Layer):
        if type(activation) is layers.ReLU and type(layer) not in _ACTIVATION_LAYERS:
            return _relu_rule(activation)
        rule = RULES.get(type(activation))
        has_weights = isinstance(activation, _WITH_WEIGHTS) or (rule and rule.wrapper)
        return None if has_weights or type(layer) in _ACTIVATION_LAYERS else rule
    ours = any(activation is each for each in _OURS)
    name = activation.__name__ if ours else builtin_name(activation)
    return None if name is None else ACTIVATIONS.get(name)


def _function_rule(layer: Any) -> Rule:
    negative, signed = layer.signs()
    return dataclasses.replace(_FUNCTION, unsigned=not negative, signed=signed)


def _activation_name(layer: Any) -> str:
    name: str = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    return name


def _relu_rule(layer: Any) -> Rule:
    slope, threshold = float(layer.negative_slope), float(layer.threshold)
    if slope == threshold == 0 and layer.max_value in (None, 6.0):
        return _RELU if layer.max_value is None else _RELU6
    return _pointwise(QuantizeReLU, unsigned=slope == 0, signed=slope * threshold > 0)
