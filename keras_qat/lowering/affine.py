"""Lowers affine maps of each channel: folded exactly into a weight layer, or an op of their own."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops as keras_ops

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import Pending, PendingLinear, PendingReshape
from keras_qat.lowering.pending_row import PendingRow
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.wide_numbers import in_wide_numbers, wide

layers = keras.layers
UNIT = 64
"""The magnitude of every weight, where an affine map is an op of its own."""


def lower_affine(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """`gain * y + offset` per channel.

    Behind a weight layer the map is folded: the magnitude of the gain goes into the weight scales,
    its sign into the integers, and the offset into the bias. No learned integer is rounded.
    Elsewhere the map is a 1x1 depthwise convolution with weights of -64 and +64. The unit of its
    bias is 1/64 of the input's step, times the magnitude of the gain.
    """
    channels = context.output_shape[-1]
    gain, offset = (np.broadcast_to(each, (channels,)) for each in _as_arrays(layer))
    (x,) = operands
    if isinstance(x, PendingLinear | PendingReshape | PendingRow):
        return x.affine(gain, offset)
    source = integer_operand(x, layer.name)
    features = context.output_shape
    if len(features) != 3:
        image = (1, math.prod(features[:-1]), features[-1])
        flat = ops.Reshape((source,), f"{context.name}/spatial", image)
        source = context.same_grid(flat)
    affine: Pending = PendingLinear(
        (source,),
        op=ops.DepthwiseConv2D,
        codes=np.full((1, 1, 1, channels), UNIT, dtype=np.int64),
        channel_axis=3,
        scale=np.full(channels, 1.0 / UNIT),
        bias=np.zeros(channels),
        weight_bits=1,
    ).affine(gain, offset)
    if len(features) != 3:
        affine = PendingReshape((source,), inner=affine, target_shape=features)
    return affine


@in_wide_numbers
def _as_arrays(layer: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    gain, offset = map(keras_ops.convert_to_numpy, wide_inference_affine(layer))
    return gain, offset


@in_wide_numbers
def inference_affine(layer: Any) -> tuple[Any, Any]:
    """`(gain, offset)` of an affine layer in inference: float32, one number or one per channel."""
    gain, offset = wide_inference_affine(layer)
    return keras_ops.cast(gain, "float32"), keras_ops.cast(offset, "float32")


def wide_inference_affine(layer: Any) -> tuple[Any, Any]:
    """The same in float64, for callers in wide numbers. The gain is a float32 number.

    In float32 the last bits would depend on whether a compiler fuses operations, and a step of an
    int32 bias is often smaller than they are.
    """
    if isinstance(layer, layers.BatchNormalization):
        return _batch_normalization(layer)
    if isinstance(layer, layers.Normalization):
        return _normalization(layer)
    return wide(keras_ops.cast(layer.scale, "float32")), wide(as_tensor(layer.offset))


def _batch_normalization(layer: Any) -> tuple[Any, Any]:
    gain = 1.0 / keras_ops.sqrt(wide(as_tensor(layer.moving_variance)) + layer.epsilon)
    gain = keras_ops.cast(gain, "float32")
    if layer.scale:
        gain = gain * as_tensor(layer.gamma)
    gain = wide(gain)
    offset = -wide(as_tensor(layer.moving_mean)) * gain
    return gain, offset + wide(as_tensor(layer.beta)) if layer.center else offset


def _normalization(layer: Any) -> tuple[Any, Any]:
    deviation = keras_ops.maximum(keras_ops.sqrt(layer.variance), keras.config.epsilon())
    gain = keras_ops.reshape(deviation if layer.invert else 1.0 / deviation, (-1,))
    gain, mean = wide(gain), wide(keras_ops.reshape(layer.mean, (-1,)))
    return gain, mean if layer.invert else -mean * gain
