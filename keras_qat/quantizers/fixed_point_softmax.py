"""SOFTMAX of runtimes inside a Keras graph: the formulas of `keras_qat.integer.ops.softmax`."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_qat.integer.op_numbers import exponentials_of_16_bits, fixed_point_multiplier
from keras_qat.integer.ops.softmax import (
    DIFFERENCE_BITS,
    EXP_MINUS_EIGHTH,
    EXP_OF_MINUS_POWERS,
    NEWTON_SLOPE,
    NEWTON_START,
    ONE_THIRD,
    SOFTMAX_OUTPUT,
    SUM_BITS,
)
from keras_qat.keras_fixed_point import divide_by_power_of_two, high_multiply, rounded_twice
from keras_qat.tensors import Tensor

_INT32_MAX = (1 << 31) - 1


def softmax_steps(below_largest: Tensor, scale: Tensor) -> Tensor:
    """Probabilities in steps of 1/256, int64, from the distances of codes to the largest one.

    Args:
        below_largest: the distances, int64, 0 or more.
        scale: the scale of the codes, float64.
    """
    fractional_bits = 31 - DIFFERENCE_BITS
    real = ops.minimum(scale * float(1 << fractional_bits), float(_INT32_MAX))
    mantissa, shift = fixed_point_multiplier(ops, real)
    shifted = ops.left_shift(np.int64(1), shift)
    radius = (((1 << DIFFERENCE_BITS) - 1) << fractional_bits) // shifted
    counted = below_largest <= radius
    counts = ops.cast(counted, "int64")
    differences = high_multiply(-below_largest * counts * shifted, mantissa)
    exponentials = _exp_of_nonpositive(differences)
    total = ops.sum(divide_by_power_of_two(exponentials, SUM_BITS) * counts, -1, keepdims=True)
    reciprocal, bits_over_unit = _reciprocal(total)
    product = high_multiply(reciprocal, exponentials)
    return divide_by_power_of_two(product, bits_over_unit + (31 - 8)) * counts


def table_softmax_steps(below_largest: Tensor, scale: Tensor) -> Tensor:
    """The same as LiteRT computes it on arm64: a table of 16-bit exponentials, summed exactly."""
    exponentials = ops.take(exponentials_of_16_bits(ops, scale), below_largest)
    total = ops.cast(ops.sum(exponentials, -1, keepdims=True), "float32")
    factor = np.float32(1.0) / (total * np.float32(SOFTMAX_OUTPUT.scale))
    mantissa, shift = fixed_point_multiplier(ops, ops.cast(factor, "float64"))
    return rounded_twice(exponentials, mantissa, shift, positive=True)


def _exp_of_nonpositive(x: Tensor) -> Tensor:
    fractional_bits = 31 - DIFFERENCE_BITS
    quarter = 1 << (fractional_bits - 2)
    rest = ops.bitwise_and(x, np.int64(quarter - 1)) - quarter
    multiple = rest - x
    t = rest * (1 << DIFFERENCE_BITS) + (1 << 28)
    t2 = high_multiply(t, t)
    t3 = high_multiply(t2, t)
    t4 = high_multiply(t2, t2)
    tail = high_multiply(divide_by_power_of_two(t4, 2) + t3, ONE_THIRD) + t2
    series = t + divide_by_power_of_two(tail, 1)
    result = high_multiply(series, EXP_MINUS_EIGHTH) + EXP_MINUS_EIGHTH
    for power, constant in EXP_OF_MINUS_POWERS:
        place = np.int64(1 << (fractional_bits + power))
        present = ops.bitwise_and(multiple, place) != 0
        result = ops.where(present, high_multiply(result, constant), result)
    return ops.where(x == 0, np.int64(_INT32_MAX), result)


def _reciprocal(total: Tensor) -> tuple[Tensor, Tensor]:
    bit_length = ops.sum(
        ops.cast(total[..., None] >= np.int64(1) << np.arange(32, dtype=np.int64), "int64"), -1
    )
    leading_zeros = 32 - bit_length
    mantissa = ops.left_shift(total, leading_zeros) - (1 << 31)
    half_denominator = (mantissa + (1 << 31)) // 2
    estimate = high_multiply(half_denominator, NEWTON_SLOPE) + NEWTON_START
    for _ in range(3):
        error = (1 << 29) - high_multiply(half_denominator, estimate)
        estimate = estimate + high_multiply(estimate, error) * 4
    return ops.minimum(estimate * 2, _INT32_MAX), SUM_BITS - leading_zeros
