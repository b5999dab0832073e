"""`floor(log2(x))`, from which integer kernels compute their multipliers."""

from __future__ import annotations

from keras import ops

from keras_qat.tensors import Tensor


def floor_log2(x: Tensor) -> Tensor:
    """`floor(log2(x))`, exact also at powers of two, where a float logarithm can be off by one.

    >>> [float(v) for v in floor_log2(ops.array([0.4, 0.5, 8.0]))]
    [-2.0, -1.0, 3.0]
    """
    exponent = ops.floor(ops.log2(x))
    exponent = exponent + ops.cast(ops.power(2.0, exponent + 1.0) <= x, "float32")
    return exponent - ops.cast(ops.power(2.0, exponent) > x, "float32")
