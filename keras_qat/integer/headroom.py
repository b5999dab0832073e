"""Headroom: the same real weights in finer steps, for a finer bias and a finer multiplier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_qat.integer import ops
from keras_qat.integer.fixed_point import Int64Array
from keras_qat.integer.graph import IntegerGraph
from keras_qat.integer.op_numbers import (
    NUMPY,
    WEIGHT_MAX,
    LearnedChannels,
    stored_channels,
)
from keras_qat.integer.qparams import FloatArray, QuantParams


def add_headroom(graph: IntegerGraph) -> IntegerGraph:
    """Stores `q * 2**k` at `scale / 2**k` in every channel with a multiplier under one half.

    The real weights stay the same. The bias and the fixed-point multiplier become finer by `k`
    bits, which makes the second rounding of a fixed-point kernel harmless. `k` is the largest
    shift that keeps weights within +-127, the accumulator in int32 for any int8 input, and the
    multiplier in range. Channels that share one scale share one `k`.

    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder, QuantParams
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 1), QuantParams(np.float32(0.25)))
    >>> weight = QuantParams(np.array([0.5], np.float32), qmin=-1, qmax=1, axis=0)
    >>> y = builder.add(
    ...     ops.FullyConnected((x,), "y", ops.QuantizedArray(np.int8([[-1]]), weight), np.zeros(1)),
    ...     QuantParams(np.float32(1.0)),
    ... )
    >>> (op,) = add_headroom(builder.build((y,))).ops
    >>> int(op.weight.values[0, 0]), float(op.weight.qparams.scale[0])
    (-64, 0.0078125)
    """
    return map_linear_ops(graph, with_headroom)


def headroom_bits(
    op: ops.LinearOp, graph: IntegerGraph, weight_max: int = WEIGHT_MAX
) -> Int64Array:
    """The shift `k` of every output channel.

    `k` is 0 where the multiplier is one half or more, and where all weights are 0.

    Args:
        op: the op whose weights are shifted.
        graph: the graph that the op belongs to.
        weight_max: largest magnitude of a stored weight.
    """
    x, y = (graph.tensors[name].qparams for name in (op.inputs[0], op.output))
    codes = np.abs(op.weight.values.astype(np.float64))
    others = tuple(axis for axis in range(codes.ndim) if axis != op.channel_axis)
    learned = LearnedChannels(
        codes.sum(axis=others),
        codes.max(axis=others, initial=0.0),
        scale_of_channels(op).astype(np.float64),
        op.bias,
        one_scale=op.weight.qparams.axis is None,
    )
    scales = x.scale.astype(np.float64), y.scale.astype(np.float64)
    bits: Int64Array = stored_channels(NUMPY, learned, *scales, weight_max).headroom
    return bits


def real_multiplier(op: ops.LinearOp, graph: IntegerGraph) -> npt.NDArray[np.float64]:
    """`s_x * s_w / s_y` of every output channel, in float64."""
    x, y = graph.tensors[op.inputs[0]].qparams, graph.tensors[op.output].qparams
    multiplier: npt.NDArray[np.float64] = (
        x.scale.astype(np.float64) * scale_of_channels(op) / y.scale.astype(np.float64)
    )
    return multiplier


def scale_of_channels(op: ops.LinearOp) -> FloatArray:
    """The weight scale of every output channel, also where they share one."""
    channels = op.weight.values.shape[op.channel_axis]
    return np.broadcast_to(op.weight.qparams.scale, channels)


def map_linear_ops(
    graph: IntegerGraph, change: Callable[[ops.LinearOp, IntegerGraph], ops.LinearOp]
) -> IntegerGraph:
    """The graph in which `change(op, graph)` replaces every op with weights."""
    changed = tuple(change(op, graph) if isinstance(op, ops.LinearOp) else op for op in graph.ops)
    return dataclasses.replace(graph, ops=changed).validate()


def with_headroom(
    op: ops.LinearOp, graph: IntegerGraph, weight_max: int = WEIGHT_MAX
) -> ops.LinearOp:
    """The op with headroom in its weights, which stay within `+-weight_max`."""
    bits = headroom_bits(op, graph, weight_max)
    if not bits.any():
        return op
    shape = [1] * op.weight.values.ndim
    shape[op.channel_axis] = -1
    values = (op.weight.values.astype(np.int64) << bits.reshape(shape)).astype(np.int8)
    learned = op.weight.qparams
    finer = -bits if learned.axis is not None else -bits[0]
    scale = np.ldexp(learned.scale, finer).astype(np.float32)
    lowest = min(-weight_max, int(values.min()))
    grid = QuantParams(scale, qmin=lowest, qmax=weight_max, axis=learned.axis)
    return dataclasses.replace(op, weight=ops.QuantizedArray(values, grid))
