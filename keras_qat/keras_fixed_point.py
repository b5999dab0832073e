"""Rescaling in fixed point inside a Keras graph: the formulas of `keras_qat.integer.fixed_point`.

All numbers are int64, so callers compute in wide numbers (`keras_qat.wide_numbers`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_qat.integer.op_numbers import power_of_two
from keras_qat.tensors import Tensor

_ONE = np.int64(1)
_HALF = np.int64(1 << 30)


def rounded_twice(
    accumulator: Tensor, mantissa: Tensor, shift: Tensor, positive: bool = False
) -> Tensor:
    """`multiply_double_rounding`, in one shift.

    With `r = max(-shift, 0)` and the product `p = x * m * 2**max(shift, 0)`, the two roundings are
    `floor((p + 2**30 + [r > 0] * (2**(30 + r) - 2**31 * [p + 2**30 < 0])) / 2**(31 + r))`.

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


def rounded_after_floor(accumulator: Tensor, mantissa: Tensor, shift: Tensor) -> Tensor:
    """`rescale_with_floored_product`: a floor of 31 bits, then a rounding shift, ties up.

    Args:
        accumulator: int64, of at most 16 bits.
        mantissa, shift: int64, the multiplier. It has 24 bits, so the mantissa is exact.
    """
    right = ops.maximum(-shift, _ONE)
    raised = ops.left_shift(accumulator, right + shift)
    raised = ops.minimum(ops.maximum(raised, -(1 << 31)), (1 << 31) - 1)
    high = ops.right_shift(raised * mantissa, 31 * _ONE)
    return ops.right_shift(high + ops.left_shift(_ONE, right - 1), right)


@dataclasses.dataclass(frozen=True, eq=False)
class Rescaling:
    """From sums of codes to steps of the output, for every channel of the last axis.

    Attributes:
        headroom: int64; sums are shifted left by it.
        bias: float64, a whole number, added then.
        mantissa, shift: int64, the multiplier.
        largest: float64, the largest magnitude that sum and bias together reach.
        reach: float64, the largest magnitude of an output code.
        positive: only results above 0 matter; the others come out as 0 or below.
    """

    headroom: Tensor
    bias: Tensor
    mantissa: Tensor
    shift: Tensor
    largest: Tensor
    reach: Tensor
    positive: bool

    def steps(self, sums: Tensor) -> Tensor:
        """`rounded_twice(sums * 2**headroom + bias)` as float32, for whole sums in float64.

        Float64 takes two thirds of the time of int64. It gives the same steps where `is_exact`
        says so for every channel.
        """
        return ops.cond(
            ops.all(self.is_exact()),
            lambda: ops.cast(self.in_float64(sums), "float32"),
            lambda: ops.cast(self.in_int64(sums), "float32"),
        )

    def in_int64(self, sums: Tensor) -> Tensor:
        """`rounded_twice` as it stands."""
        shifted = ops.left_shift(ops.cast(sums, "int64"), self.headroom)
        accumulator = shifted + ops.cast(self.bias, "int64")
        return rounded_twice(accumulator, self.mantissa, self.shift, self.positive)

    def in_float64(self, sums: Tensor) -> Tensor:
        """`rounded_twice` in steps of the output.

        Half a unit of the product is added, so that no result lies half way between two steps.
        """
        factor, offset = self._affine()
        steps = sums * factor + offset
        if not self.positive:
            right = ops.maximum(-self.shift, 0)
            once = ops.cast(right > 0, "float64") * power_of_two(ops, -right)
            steps = ops.where(steps < 0.0, steps - once, steps)
        return ops.round(steps)

    def _affine(self) -> tuple[Tensor, Tensor]:
        right = ops.maximum(-self.shift, 0)
        mantissa = ops.cast(self.mantissa, "float64")
        mantissa = mantissa * power_of_two(ops, ops.maximum(self.shift, 0))
        unit = self._unit()
        rounding = power_of_two(ops, 30 + right) * ops.cast(right > 0, "float64")
        offset = (self.bias * mantissa + float(_HALF) + rounding + 0.5) * unit - 0.5
        return mantissa * power_of_two(ops, self.headroom) * unit, offset

    def _unit(self) -> Tensor:
        """The unit of the product, in steps."""
        return power_of_two(ops, ops.minimum(self.shift, 0) - 31)

    def is_exact(self) -> Tensor:
        """Whether float64 cannot move a result to another step.

        Either every number is a multiple of half a unit below `2**52` of them, so nothing is ever
        rounded. Or all errors together are below half a unit. They count only where the result is
        at most twice the largest code; farther out it saturates.
        """
        unit, (_, offset) = self._unit(), self._affine()
        mantissa = ops.cast(self.mantissa, "float64")
        product = self.largest * mantissa * power_of_two(ops, ops.maximum(self.shift, 0))
        never_rounds = product + 2.0 / unit < 2.0**51
        error = (4.0 * self.reach + 4.0 * ops.abs(offset) + 4.0) * 2.0**-52
        return ops.logical_or(never_rounds, error < 0.5 * unit)


def high_multiply(a: Tensor, b: Any) -> Tensor:
    """`saturating_rounding_doubling_high_mul`: `round(a * b / 2**31)`, ties up, at most int32."""
    return ops.minimum(ops.right_shift(a * b + _HALF, 31 * _ONE), (1 << 31) - 1)


def divide_by_power_of_two(x: Tensor, exponent: Any) -> Tensor:
    """`rounding_divide_by_power_of_two`: `round(x / 2**exponent)`, ties away from zero."""
    exponent = ops.cast(exponent, "int64")
    half = ops.right_shift(ops.left_shift(_ONE, exponent), _ONE)
    negative = ops.cast(ops.logical_and(x < 0, exponent > 0), "int64")
    return ops.right_shift(x + half - negative, exponent)
