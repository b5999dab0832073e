"""ADD of two tensors, and clamps against a constant (MAXIMUM, MINIMUM)."""

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
    IntegerOp,
    QuantizedArray,
    Shape,
    finish,
)
from keras_qat.integer.qparams import IntArray, QuantParams

_ADD_HEADROOM_BITS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Add(IntegerOp):
    """Sum of two tensors of one shape, each on a grid of its own, with a fused activation."""

    activation: Activation = "linear"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        left, right = shapes
        if left != right:
            raise ValueError(f"Add needs two tensors of one shape. Received: {left} and {right}")
        return left

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        total = _add_xnnpack if profile.float_add else _add_fixed_point
        return finish(total(inputs[0], inputs[1], output), output, self.activation)


def _add_fixed_point(left: QuantizedArray, right: QuantizedArray, output: QuantParams) -> IntArray:
    """Both terms on a common grid 20 bits finer than twice the larger scale, then rescaled."""
    common = 2.0 * max(float(left.qparams.scale), float(right.qparams.scale))
    total: Int64Array = np.zeros((), dtype=np.int64)
    for term in (left, right):
        mantissa, shift = quantize_multiplier(float(term.qparams.scale) / common)
        raised = term.centered().astype(np.int64) << _ADD_HEADROOM_BITS
        total = total + multiply_double_rounding(raised, mantissa, shift)
    mantissa, shift = quantize_multiplier(
        common / ((1 << _ADD_HEADROOM_BITS) * float(output.scale))
    )
    return multiply_double_rounding(total, mantissa, shift)


def _add_xnnpack(left: QuantizedArray, right: QuantizedArray, output: QuantParams) -> IntArray:
    """Integer multipliers of 20 to 21 bits for both terms, one rounding shift, ties up."""
    ratios = [np.float32(x.qparams.scale) / np.float32(output.scale) for x in (left, right)]
    _, exponent = np.frexp(max(ratios))
    shift = _ADD_HEADROOM_BITS - (int(exponent) - 1)
    total: Int64Array = np.full((), np.int64(1) << (shift - 1))
    for term, ratio in zip((left, right), ratios, strict=True):
        multiplier = np.int64(np.rint(float(ratio) * 2.0**shift))
        total = total + term.centered() * multiplier
    return total >> shift


@dataclasses.dataclass(frozen=True, eq=False)
class Maximum(IntegerOp):
    """`max(x, bound)` on the stored integers; input and output share scale and zero point."""

    bound: int

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return shape

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.maximum(inputs[0].values, np.int8(self.bound))


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum(IntegerOp):
    """`min(x, bound)` on the stored integers; input and output share scale and zero point."""

    bound: int

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return shape

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.minimum(inputs[0].values, np.int8(self.bound))
