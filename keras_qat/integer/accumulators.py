"""How large an accumulator can become: exact bounds over all inputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from keras_qat.integer import ops
from keras_qat.integer.fixed_point import Int64Array, quantize_multiplier
from keras_qat.integer.graph import IntegerGraph

INT32_MAX = (1 << 31) - 1
_LARGEST_MULTIPLIER = 2.0**63
"""Any accumulator but 0 leaves int32 from here on."""


def accumulator_range(op: ops.LinearOp, graph: IntegerGraph) -> tuple[Int64Array, Int64Array]:
    """The least and the largest accumulator of every output channel, bias included.

    The range covers every input code, and every subset of the taps: padding at a border leaves some
    of them out.

    >>> from keras_qat.integer import GraphBuilder, QuantParams
    >>> builder, grid = GraphBuilder(), QuantParams(np.float32(1), -128, -128, 127)
    >>> x = builder.add_input("x", (1, 2), grid)
    >>> weight = QuantParams(np.ones(1, np.float32), qmin=-127, qmax=127, axis=0)
    >>> array = ops.QuantizedArray(np.int8([[3, -1]]), weight)
    >>> y = builder.add(ops.FullyConnected((x,), "y", array, np.array([5.0])), grid)
    >>> graph = builder.build((y,))
    >>> accumulator_range(graph.ops[0], graph)
    (array([-250]), array([770]))
    """
    x = graph.tensors[op.inputs[0]].qparams
    low, high = min(x.qmin - x.zero_point, 0), max(x.qmax - x.zero_point, 0)
    codes = op.weight.values.astype(np.int64)
    taps = tuple(axis for axis in range(codes.ndim) if axis != op.channel_axis)
    positive, negative = np.maximum(codes, 0).sum(axis=taps), np.minimum(codes, 0).sum(axis=taps)
    bias = op.integer_bias(x.scale).astype(np.int64)
    return positive * low + negative * high + bias, positive * high + negative * low + bias


def leaves_int32(
    largest: Int64Array | np.int64, multiplier: npt.ArrayLike, spare: int = 0
) -> npt.NDArray[np.bool_]:
    """Whether a kernel with fixed-point multipliers overflows int32 before it rounds.

    Such a kernel shifts the accumulator left, in 32 bits, by the exponent of a multiplier of 1 and
    more.

    Args:
        largest: largest magnitude of the accumulator.
        multiplier: the factor that the accumulator is rescaled by.
        spare: bits of the shift that the kernel leaves out.

    >>> [bool(leaves_int32(np.int64(2**24), m)) for m in (0.9, 60.0, 64.0, 2.0**99)]
    [False, False, True, True]
    """
    _, shift = quantize_multiplier(np.minimum(multiplier, _LARGEST_MULTIPLIER))
    shifted = np.ldexp(np.asarray(largest, np.float64), np.maximum(shift - spare, 0))
    out: npt.NDArray[np.bool_] = np.asarray(shifted > INT32_MAX)
    return out
