"""ADD, SUB and MUL of two tensors, each on its own grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import (
    Int64Array,
    RoundingProfile,
    multiply_double_rounding,
    quantize_multiplier,
)
from keras_qat.integer.ops.op import (
    Activation,
    BinaryOp,
    QuantizedArray,
    finish,
    rescale_of,
)
from keras_qat.integer.qparams import IntArray, QuantParams

_ADD_HEADROOM_BITS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class ArithmeticOp(BinaryOp):
    """Two tensors, element by element, with a fused activation."""

    activation: Activation = "linear"


@dataclasses.dataclass(frozen=True, eq=False)
class Add(ArithmeticOp):
    """`left + right`."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return finish(_signed_sum(inputs, (1, 1), output, profile), output, self.activation)


@dataclasses.dataclass(frozen=True, eq=False)
class Sub(ArithmeticOp):
    """`left - right`."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return finish(_signed_sum(inputs, (1, -1), output, profile), output, self.activation)


@dataclasses.dataclass(frozen=True, eq=False)
class Mul(ArithmeticOp):
    """`left * right`: the int32 product of the integers, rescaled once."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        left, right = inputs
        steps = profile.mul(
            left.centered() * right.centered(), rescale_of(left, right.qparams, output)
        )
        return finish(steps, output, self.activation)


def _signed_sum(
    terms: Sequence[QuantizedArray],
    signs: tuple[int, int],
    output: QuantParams,
    profile: RoundingProfile,
) -> IntArray:
    total = _sum_xnnpack if profile.float_add else _sum_fixed_point
    return total(terms, signs, output)


def _sum_fixed_point(
    terms: Sequence[QuantizedArray], signs: tuple[int, int], output: QuantParams
) -> IntArray:
    """The sum on a common grid, 20 bits finer than twice the larger scale, then rescaled."""
    common = 2.0 * max(float(term.qparams.scale) for term in terms)
    total: Int64Array = np.zeros((), dtype=np.int64)
    for term, sign in zip(terms, signs, strict=True):
        mantissa, shift = quantize_multiplier(float(term.qparams.scale) / common)
        raised = term.centered().astype(np.int64) << _ADD_HEADROOM_BITS
        total = total + sign * multiply_double_rounding(raised, mantissa, shift)
    mantissa, shift = quantize_multiplier(
        common / ((1 << _ADD_HEADROOM_BITS) * float(output.scale))
    )
    return multiply_double_rounding(total, mantissa, shift)


def _sum_xnnpack(
    terms: Sequence[QuantizedArray], signs: tuple[int, int], output: QuantParams
) -> IntArray:
    """The sum with integer multipliers, the larger of 21 bits, and one rounding shift, ties up."""
    ratios = [np.float32(term.qparams.scale) / np.float32(output.scale) for term in terms]
    _, exponent = np.frexp(max(ratios))
    shift = _ADD_HEADROOM_BITS - (int(exponent) - 1)
    total: Int64Array = np.full((), np.int64(1) << (shift - 1))
    for term, sign, ratio in zip(terms, signs, ratios, strict=True):
        multiplier = np.int64(np.rint(float(ratio) * 2.0**shift))
        total = total + term.centered() * (sign * multiplier)
    return total >> shift
