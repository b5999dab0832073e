"""BatchNormalization in integers: folded exactly, or an affine op of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops as keras_ops

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import Pending, PendingLinear, PendingReshape
from keras_qat.lowering.pending_row import PendingRow
from keras_qat.quantizers.custom_gradient import as_tensor

_UNIT = 64


def lower_batch_normalization(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """`gain * y + offset` per channel.

    Behind a weight layer the gain goes into its per-channel weight scales, a negative one flips
    that channel's integers, and the offset goes into the bias: no learned integer is rounded.
    Elsewhere it is a 1x1 depthwise convolution whose weights are all -64 or +64: the step of its
    bias is then 1/64 of that of its input.
    """
    gain, offset = (
        keras_ops.convert_to_numpy(values).astype(np.float64) for values in inference_affine(layer)
    )
    (x,) = operands
    if isinstance(x, PendingLinear | PendingRow):
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
        codes=np.full((1, 1, 1, gain.size), _UNIT, dtype=np.int64),
        channel_axis=3,
        scale=np.full(gain.size, 1.0 / _UNIT),
        bias=np.zeros(gain.size),
        weight_bits=1,
    ).affine(gain, offset)
    if len(features) != 3:
        affine = PendingReshape((source,), inner=affine, target_shape=features)
    return affine


def inference_affine(layer: Any) -> tuple[Any, Any]:
    """`(gain, offset)` of the affine map that the layer is in inference: float32 per channel."""
    gain = 1.0 / keras_ops.sqrt(as_tensor(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        gain = gain * as_tensor(layer.gamma)
    offset = -as_tensor(layer.moving_mean) * gain
    if layer.center:
        offset = offset + as_tensor(layer.beta)
    return gain, offset
