"""Rescaling in fixed point inside a Keras graph: the formulas of `keras_qat.integer.fixed_point`.

All numbers are int64, so callers compute in wide numbers (`keras_qat.wide_numbers`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_qat.tensors import Tensor

_ONE = np.int64(1)
_HALF = np.int64(1 << 30)


def rounded_twice(
    accumulator: Tensor, mantissa: Tensor, shift: Tensor, positive: bool = False
) -> Tensor:
    """`multiply_double_rounding`, in one shift.

    With the product `p = x * m * 2**max(shift, 0)` and `r = max(-shift, 0)`, the two roundings are
    `floor((p + 2**30 + 2**(30 + r) - 2**31 * [p + 2**30 < 0]) / 2**(31 + r))`; without the last
    three terms of the sum if `r = 0`.

    Args:
        accumulator: int64.
        mantissa, shift: int64, of every channel of the last axis, or of all.
        positive: only results above 0 matter; the others come out as 0 or below.
    """
    right = ops.maximum(-shift, 0)
    product = accumulator * ops.left_shift(mantissa, ops.maximum(shift, 0)) + _HALF
    twice = ops.cast(right > 0, "int64")
    total = product + twice * ops.left_shift(_HALF, right)
    if not positive:
        total = total - ops.left_shift(ops.cast(product < 0, "int64") * twice, 31 * _ONE)
    return ops.right_shift(total, right + 31)


def high_multiply(a: Tensor, b: Any) -> Tensor:
    """`saturating_rounding_doubling_high_mul`: `round(a * b / 2**31)`, ties up, at most int32."""
    return ops.minimum(ops.right_shift(a * b + _HALF, 31 * _ONE), (1 << 31) - 1)


def divide_by_power_of_two(x: Tensor, exponent: Any) -> Tensor:
    """`rounding_divide_by_power_of_two`: `round(x / 2**exponent)`, ties away from zero."""
    exponent = ops.cast(exponent, "int64")
    half = ops.right_shift(ops.left_shift(_ONE, exponent), _ONE)
    negative = ops.cast(ops.logical_and(x < 0, exponent > 0), "int64")
    return ops.right_shift(x + half - negative, exponent)
