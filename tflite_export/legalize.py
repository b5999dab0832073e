"""Passes from a learned graph to one that a target can hold: the real network stays the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, QuantParams, ops
from tflite_export.legality import check_legal, real_multiplier
from tflite_export.targets import Target

_WEIGHT_MAX = 127
_INT32_MAX = (1 << 31) - 1

Int64Array = npt.NDArray[np.int64]


def legalize(graph: IntegerGraph, target: Target) -> IntegerGraph:
    """The graph as the file will state it: scale vectors and headroom, checked for the target.

    Raises:
        ExportError: something the target cannot hold; the message names the tensor.
    """
    vectorized = with_channel_scales(graph)
    check_legal(vectorized, target)
    return add_headroom(vectorized)


def with_channel_scales(graph: IntegerGraph) -> IntegerGraph:
    """Weights on a per-tensor grid get a vector of equal scales: kernels differ on a scalar."""
    return _map_linear_ops(graph, _with_channel_scales)


def add_headroom(graph: IntegerGraph) -> IntegerGraph:
    """Stores `q * 2**k` at `scale / 2**k` in every channel with a multiplier under one half.

    The real weights are the same; the bias and the fixed-point multiplier become finer by `k`
    bits, which makes the second rounding of a fixed-point kernel harmless. `k` is the largest
    shift that keeps weights within +-127, the accumulator in int32 and the multiplier in range.

    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder
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
    return _map_linear_ops(graph, _with_headroom)


def headroom_bits(op: ops.LinearOp, graph: IntegerGraph) -> Int64Array:
    """The shift `k` of every output channel, 0 where headroom is of no use."""
    x = graph.tensors[op.inputs[0]].qparams
    codes = np.abs(op.weight.values.astype(np.int64))
    others = tuple(axis for axis in range(codes.ndim) if axis != op.channel_axis)
    multiplier = real_multiplier(op, graph)
    reach = max(x.qmax - x.zero_point, x.zero_point - x.qmin)
    bias = np.abs(op.integer_bias(x.scale).astype(np.int64))
    accumulator = codes.sum(axis=others) * reach + bias + 1
    room = np.minimum.reduce(
        [
            _floor_log2(_WEIGHT_MAX / np.maximum(codes.max(axis=others), 1)),
            _floor_log2(_INT32_MAX / accumulator),
            _floor_log2(multiplier) + 31,
        ]
    )
    useful = (multiplier < 0.5) & (codes.max(axis=others) > 0)
    return np.where(useful, np.maximum(room, 0), 0)


def _map_linear_ops(
    graph: IntegerGraph, change: Callable[[ops.LinearOp, IntegerGraph], ops.LinearOp]
) -> IntegerGraph:
    changed = tuple(change(op, graph) if isinstance(op, ops.LinearOp) else op for op in graph.ops)
    return dataclasses.replace(graph, ops=changed).validate()


def _with_channel_scales(op: ops.LinearOp, graph: IntegerGraph) -> ops.LinearOp:
    grid = op.weight.qparams
    if grid.axis is not None:
        return op
    channels = op.weight.values.shape[op.channel_axis]
    vector = dataclasses.replace(grid, scale=np.full(channels, grid.scale), axis=op.channel_axis)
    return dataclasses.replace(op, weight=ops.QuantizedArray(op.weight.values, vector))


def _with_headroom(op: ops.LinearOp, graph: IntegerGraph) -> ops.LinearOp:
    bits = headroom_bits(op, graph)
    if not bits.any():
        return op
    axis = op.channel_axis
    shape = [1] * op.weight.values.ndim
    shape[axis] = -1
    values = (op.weight.values.astype(np.int64) << bits.reshape(shape)).astype(np.int8)
    scale = np.ldexp(op.weight.qparams.scale, -bits).astype(np.float32)
    grid = QuantParams(scale, qmin=-_WEIGHT_MAX, qmax=_WEIGHT_MAX, axis=axis)
    return dataclasses.replace(op, weight=ops.QuantizedArray(values, grid))


def _floor_log2(x: npt.NDArray[np.float64]) -> Int64Array:
    return np.frexp(x)[1].astype(np.int64) - 1
