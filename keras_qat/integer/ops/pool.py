"""Pooling: MAX_POOL_2D, AVERAGE_POOL_2D and MEAN over height and width."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_qat.integer.fixed_point import (
    RoundingProfile,
    multiply_double_rounding,
    quantize_multiplier,
)
from keras_qat.integer.op_numbers import NUMPY, fused_multiply_add
from keras_qat.integer.ops.op import IntegerOp, Padding, QuantizedArray, Shape, finish
from keras_qat.integer.ops.window import Window
from keras_qat.integer.qparams import INT8_MIN, IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class Pool2D(IntegerOp):
    """A pooling window. The output keeps the grid of the input."""

    pool_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding = "valid"

    @property
    def window(self) -> Window:
        """The sliding window of this op."""
        return Window(self.pool_size, self.strides, self.padding)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return (shape[0], *self.window.output_size(shape[1:3]), shape[3])


@dataclasses.dataclass(frozen=True, eq=False)
class MaxPool2D(Pool2D):
    """The largest integer of each window. Padding is -128 and never changes the result."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        highest: IntArray = self.window.patches(x.values, fill=INT8_MIN).max(axis=(3, 4))
        return highest


@dataclasses.dataclass(frozen=True, eq=False)
class AveragePool2D(Pool2D):
    """Mean of the stored integers of each window, ties away from zero.

    The averaged integers include the zero point. Padding is not counted.
    """

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        total = self.window.patches(x.values.astype(np.int32)).sum(axis=(3, 4), dtype=np.int64)
        inside = np.ones((1, *x.values.shape[1:3], 1), dtype=np.int32)
        count = self.window.patches(inside).sum(axis=(3, 4), dtype=np.int64)
        magnitude = (np.abs(total) + count // 2) // count
        return np.asarray(np.sign(total) * magnitude, dtype=np.int8)


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(IntegerOp):
    """Mean over height and width, (N, H, W, C) to (N, C). The output has its own grid."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return (shape[0], shape[3])

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        count = x.values.shape[1] * x.values.shape[2]
        total = x.values.sum(axis=(1, 2), dtype=np.int64)
        return rounded_mean(total, count, x.qparams, output, profile)


def rounded_mean(
    raw_total: npt.NDArray[np.int64],
    count: int,
    x: QuantParams,
    output: QuantParams,
    profile: RoundingProfile,
) -> IntArray:
    """The codes of means of `count` codes, from sums of the stored integers."""
    if profile.float_mean:
        steps = _mean_float32(raw_total, count, x, output, profile.fused_mean)
    else:
        steps = _mean_fixed_point(raw_total, count, x, output)
    return finish(steps, output)


def _mean_fixed_point(
    raw_total: npt.NDArray[np.int64], count: int, x: QuantParams, output: QuantParams
) -> IntArray:
    """The mean in fixed point. The mantissa is divided by `count` and truncated."""
    total = raw_total - x.zero_point * count
    mantissa, shift = quantize_multiplier(
        x.scale.astype(np.float64) / output.scale.astype(np.float64)
    )
    spare = min(count.bit_length() - 1, 32, 31 + int(shift))
    return multiply_double_rounding(total, (mantissa << spare) // count, shift - spare)


def _mean_float32(
    raw_total: npt.NDArray[np.int64],
    count: int,
    x: QuantParams,
    output: QuantParams,
    fused: bool,
) -> IntArray:
    """The mean in float32. Both zero points are one offset, which is added before rounding.

    `raw_total` is the sum of the stored integers, zero point included. Ties go to the even number
    after the offset is added, so the parity of the zero point decides their direction.

    Args:
        raw_total: the sums.
        count: the number of pixels.
        x, output: the grids.
        fused: whether `a * b + c` is rounded once.
    """
    multiplier = (
        np.float32(x.scale) / np.float32(output.scale) * (np.float32(1) / np.float32(count))
    )
    zero_points = np.float32(-x.zero_point * count), np.float32(output.zero_point)
    sums = raw_total.astype(np.float32)
    if fused:
        offset = _fused(zero_points[0], multiplier, zero_points[1])
        steps = np.rint(_fused(sums, multiplier, offset))
    else:
        steps = np.rint(sums * multiplier + (zero_points[0] * multiplier + zero_points[1]))
    return np.asarray(steps, dtype=np.int64) - output.zero_point


def _fused(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> npt.NDArray[np.float64]:
    wide = (np.asarray(each, np.float64) for each in (a, b, c))
    return np.asarray(fused_multiply_add(NUMPY, *wide))
