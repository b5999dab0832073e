"""Clamps against a constant (MAXIMUM, MINIMUM)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import IntArray, QuantParams


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
