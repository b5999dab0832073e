"""SOFTMAX over the last axis, in fixed point and in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import (
    Int64Array,
    RoundingProfile,
    multiply_double_rounding,
    quantize_multiplier,
    rounding_divide_by_power_of_two,
    saturating_rounding_doubling_high_mul,
)
from keras_qat.integer.op_numbers import NUMPY, exponentials_of_16_bits
from keras_qat.integer.ops.op import INT32_MAX, QuantizedArray, UnaryOp
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN, FloatArray, IntArray, QuantParams

SOFTMAX_OUTPUT = QuantParams(np.array(1 / 256, np.float32), zero_point=INT8_MIN)
"""The only output grid that runtimes accept: 256 levels from 0 to 255/256."""

MAX_SOFTMAX_CLASSES = 511
"""The fixed-point kernel aborts the process once its sum of exponentials reaches 512."""


@dataclasses.dataclass(frozen=True, eq=False)
class Softmax(UnaryOp):
    """Probabilities over the last axis, on the grid `SOFTMAX_OUTPUT`."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        below_max = x.values.max(axis=-1, keepdims=True).astype(np.int64) - x.values
        if profile.softmax_table:
            softmax = _softmax_uint16_table
        else:
            softmax = _softmax_float_table if profile.float_softmax else _softmax_fixed_point
        steps = softmax(below_max, x.qparams.scale)
        return np.asarray(np.clip(steps + INT8_MIN, INT8_MIN, INT8_MAX), dtype=np.int8)


def _softmax_float_table(below_max: Int64Array, scale: FloatArray) -> IntArray:
    """256 float32 exponentials, summed in float32 from the first class to the last.

    The exponentials are computed in float64 and rounded to float32, as by a correctly rounded
    `expf`. C libraries yield the same for all but rare arguments.
    """
    arguments = np.float32(-scale) * np.arange(256, dtype=np.float32)
    table = np.exp(arguments.astype(np.float64)).astype(np.float32)
    exponentials = table[below_max]
    total = np.cumsum(exponentials, axis=-1, dtype=np.float32)[..., -1:]
    factor = np.float32(1.0) / (total * SOFTMAX_OUTPUT.scale)
    return np.floor(exponentials * factor + np.float64(0.5)).astype(np.int64)


def _softmax_uint16_table(below_max: Int64Array, scale: FloatArray) -> IntArray:
    """256 exponentials of 16 bits, summed as integers; each is rescaled in fixed point."""
    exponentials = exponentials_of_16_bits(NUMPY, scale.astype(np.float64))[below_max]
    total = exponentials.sum(axis=-1, keepdims=True)
    factor = np.float32(1.0) / (total.astype(np.float32) * SOFTMAX_OUTPUT.scale)
    mantissa, shift = quantize_multiplier(factor)
    return multiply_double_rounding(exponentials, mantissa, shift)


DIFFERENCE_BITS = 5
SUM_BITS = 12


def _softmax_fixed_point(below_max: Int64Array, scale: FloatArray) -> IntArray:
    """32-bit fixed point: polynomial exponentials, and a Newton reciprocal of their sum."""
    fractional_bits = 31 - DIFFERENCE_BITS
    real = min(float(scale) * (1 << fractional_bits), float(INT32_MAX))
    mantissa, shift = quantize_multiplier(real)
    radius = int(((1 << DIFFERENCE_BITS) - 1) * (1 << fractional_bits) / (1 << int(shift)))
    counted = below_max <= radius
    differences = saturating_rounding_doubling_high_mul(
        np.where(counted, -below_max, 0) << shift, mantissa
    )
    exponentials = _exp_of_nonpositive(differences)
    terms = rounding_divide_by_power_of_two(exponentials, SUM_BITS)
    total = np.where(counted, terms, 0).sum(axis=-1, keepdims=True)
    reciprocal, bits_over_unit = _reciprocal(total)
    product = saturating_rounding_doubling_high_mul(reciprocal, exponentials)
    steps = rounding_divide_by_power_of_two(product, bits_over_unit + 31 - 8)
    return np.where(counted, steps, 0)


EXP_MINUS_EIGHTH = 1895147668
ONE_THIRD = 715827883
EXP_OF_MINUS_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)
"""`(p, round(exp(-2**p) * 2**31))`."""


def _exp_of_nonpositive(x: Int64Array) -> Int64Array:
    """`exp(x)` with 31 fractional bits, for `x <= 0` with 26 fractional bits.

    `x` is split into a multiple of -1/4 and a rest in [-1/4, 0). The exponential of the multiple
    is a product of constants. The exponential of the rest is a fourth-order Taylor polynomial
    around -1/8.
    """
    high_mul = saturating_rounding_doubling_high_mul
    fractional_bits = 31 - DIFFERENCE_BITS
    quarter = np.int64(1) << (fractional_bits - 2)
    rest = (x & (quarter - 1)) - quarter
    multiple = rest - x
    t = (rest << DIFFERENCE_BITS) + (1 << 28)
    t2 = high_mul(t, t)
    t3 = high_mul(t2, t)
    t4 = high_mul(t2, t2)
    tail = high_mul(rounding_divide_by_power_of_two(t4, 2) + t3, ONE_THIRD) + t2
    series = t + rounding_divide_by_power_of_two(tail, 1)
    result = EXP_MINUS_EIGHTH + high_mul(series, EXP_MINUS_EIGHTH)
    for power, constant in EXP_OF_MINUS_POWERS:
        present = (multiple >> (fractional_bits + power)) & 1
        result = np.where(present == 1, high_mul(result, constant), result)
    return np.where(x == 0, INT32_MAX, result)


NEWTON_START, NEWTON_SLOPE = 1515870810, -1010580540
"""48/17 and -32/17, with 29 fractional bits."""


def _reciprocal(total: Int64Array) -> tuple[Int64Array, Int64Array]:
    """`1 / total` as (31-bit fraction, binary exponent), by three Newton steps.

    `total` has 19 fractional bits and is at least 1.
    """
    high_mul = saturating_rounding_doubling_high_mul
    bit_length = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    leading_zeros = 32 - bit_length
    mantissa = (total << leading_zeros) - (np.int64(1) << 31)
    half_denominator = (mantissa + INT32_MAX + 1) // 2
    estimate = NEWTON_START + high_mul(half_denominator, NEWTON_SLOPE)
    for _ in range(3):
        error = (1 << 29) - high_mul(half_denominator, estimate)
        estimate = estimate + (high_mul(estimate, error) << 2)
    return np.minimum(estimate << 1, INT32_MAX), SUM_BITS - leading_zeros
