"""MAXIMUM and MINIMUM: of a tensor and a constant, or of two tensors on one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import BinaryOp, QuantizedArray, UnaryOp
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class Maximum(UnaryOp):
    """`max(x, bound)` on the stored integers. Input and output share scale and zero point."""

    bound: int

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.maximum(inputs[0].values, np.int8(self.bound))


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum(UnaryOp):
    """`min(x, bound)` on the stored integers. Input and output share scale and zero point."""

    bound: int

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.minimum(inputs[0].values, np.int8(self.bound))


@dataclasses.dataclass(frozen=True, eq=False)
class MaximumOfTwo(BinaryOp):
    """The larger stored integer. Both inputs and the output share scale and zero point."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.maximum(inputs[0].values, inputs[1].values)


@dataclasses.dataclass(frozen=True, eq=False)
class MinimumOfTwo(BinaryOp):
    """The smaller stored integer. Both inputs and the output share scale and zero point."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.minimum(inputs[0].values, inputs[1].values)
