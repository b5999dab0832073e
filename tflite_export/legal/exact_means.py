"""Writes a mean of few codes as a depthwise convolution if MEAN would round some sums wrong.

XNNPACK computes a MEAN in float32 from the stored integers, zero point included. Codes of one bit
are stored as 126 and 127. The sum of 8x8 of them, in steps of an 8-bit output, is about 24,000,
where float32 numbers lie 1/512 apart. A mean nearer than that to a tie is rounded wrong. Only 65
sums are possible, and one of them was 8.5 % of all elements in a trained network. A convolution
subtracts the zero point in integers.
"""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, IntegerTensor, QuantParams, ops
from keras_qat.integer.fixed_point import RoundingProfile, get_profile
from keras_qat.integer.qparams import INT8_MIN, IntArray
from tflite_export.legal.processors import depends_on_processor
from tflite_export.targets import Target

_MOST_SUMS = 1024
"""With more sums than this, each is a small share of the elements, so the MEAN stays."""


def with_exact_means(graph: IntegerGraph, target: Target, portable: bool = False) -> IntegerGraph:
    """The same network, with a DEPTHWISE_CONV_2D of ones instead of each MEAN that would err.

    Args:
        graph: the network.
        target: the target. A MEAN must not err on any of its processors.
        portable: also replace each MEAN that processors round differently.
    """
    profiles = [get_profile(each) for each in target.processors]
    for op in graph.ops:
        if not isinstance(op, ops.Mean):
            continue
        errs = any(_errs(op, graph, profile) for profile in profiles)
        if errs or (portable and depends_on_processor(op, graph, target)):
            graph = _as_convolution(op, graph)
    return graph


def _errs(op: ops.Mean, graph: IntegerGraph, profile: RoundingProfile) -> bool:
    """Whether the mean of some codes is not rounded to the nearest level of the output."""
    x, y = graph.tensors[op.inputs[0]], graph.tensors[op.output].qparams
    count, reach = x.shape[1] * x.shape[2], x.qparams.qmax - x.qparams.qmin
    if count * reach >= _MOST_SUMS:
        return False
    codes = _codes_of_every_sum(count, reach) + x.qparams.qmin
    image = ops.QuantizedArray(codes.astype(np.int8)[:, None, :, None], x.qparams)
    mean = (codes - x.qparams.zero_point).mean(axis=1) * np.float64(x.qparams.scale)
    nearest = np.clip(np.rint(mean / np.float64(y.scale)) + y.zero_point, y.qmin, y.qmax)
    return not np.array_equal(op.evaluate([image], y, profile)[:, 0], nearest)


def _codes_of_every_sum(count: int, reach: int) -> IntArray:
    """Row `k` holds `count` codes of 0 to `reach` whose sum is `k`.

    >>> _codes_of_every_sum(2, 3).tolist()
    [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3]]
    """
    sums = np.arange(count * reach + 1)[:, None]
    codes: IntArray = np.clip(sums - reach * np.arange(count), 0, reach)
    return codes


def _as_convolution(op: ops.Mean, graph: IntegerGraph) -> IntegerGraph:
    """A convolution that sums codes times 1 and rescales by one over their number."""
    x, y = graph.tensors[op.inputs[0]], graph.tensors[op.output]
    _, height, width, channels = x.shape
    ones = ops.QuantizedArray(
        np.ones((1, height, width, channels), np.int8),
        QuantParams(np.full(channels, 1 / (height * width), np.float32), 0, -1, 1, axis=3),
    )
    image = f"{op.output}/image"
    convolution = ops.DepthwiseConv2D(
        op.inputs,
        image,
        ones,
        np.zeros(channels),
        activation="linear" if y.qparams.qmin == INT8_MIN else "relu",
        weight_bits=1,
    )
    reshape = ops.Reshape((image,), op.output, y.shape[1:])
    between = IntegerTensor(image, (1, 1, 1, channels), y.qparams)
    return graph.with_op_replaced(op, [convolution, reshape], [between])
