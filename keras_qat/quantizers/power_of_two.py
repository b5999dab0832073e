"""Powers of two, for steps and ranges that are trained as base-2 logarithms."""

from __future__ import annotations

from keras import ops

from keras_qat.tensors import Tensor


def power_of_two(exponent: Tensor) -> Tensor:
    """`2**exponent`, exact for whole exponents; `d / d exponent = ln(2) * 2**exponent`.

    On JAX, `ops.exp2` is off by up to 9 units in the last place, also for whole exponents.

    >>> [float(v) for v in power_of_two([-1.0, 0.0, 13.0])]
    [0.5, 1.0, 8192.0]
    """
    return ops.power(2.0, ops.convert_to_tensor(exponent))
