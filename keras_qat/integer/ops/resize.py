"""Images enlarged by whole factors: RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class UpsamplingOp(IntegerOp):
    """An image with `factors` times the height and the width."""

    factors: tuple[int, int]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        ((batch, height, width, channels),) = shapes
        return (batch, height * self.factors[0], width * self.factors[1], channels)


@dataclasses.dataclass(frozen=True, eq=False)
class RepeatPixels(UpsamplingOp):
    """Nearest-neighbor upsampling: every pixel, repeated `factors` times down and across."""

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        return x.values.repeat(self.factors[0], axis=1).repeat(self.factors[1], axis=2)


@dataclasses.dataclass(frozen=True, eq=False)
class InterpolatePixels(UpsamplingOp):
    """Bilinear upsampling by whole factors, with half-pixel centers.

    An output pixel is a mean of the four stored integers around it, in which nearer ones weigh
    more. Ties go away from zero, in XNNPACK up. The factors are powers of two: for others the
    fixed-point weights of the runtimes are not exact.
    """

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        total = x.values.astype(np.int64)
        for axis, factor in enumerate(self.factors, start=1):
            total = _interpolated(total, axis, factor)
        count = 4 * self.factors[0] * self.factors[1]
        if profile.resize_ties_up:
            return np.asarray((2 * total + count) // (2 * count), dtype=np.int8)
        magnitude = (2 * np.abs(total) + count) // (2 * count)
        return np.asarray(np.sign(total) * magnitude, dtype=np.int8)


def _interpolated(x: IntArray, axis: int, factor: int) -> IntArray:
    """`2 * factor` times the interpolated values along one axis."""
    size = x.shape[axis]
    place = 2 * np.arange(size * factor) + 1 - factor  # in steps of 1 / (2 * factor)
    before, share = np.divmod(place, 2 * factor)
    low, high = (np.take(x, np.clip(at, 0, size - 1), axis) for at in (before, before + 1))
    weight = share.reshape([-1 if each == axis else 1 for each in range(x.ndim)])
    nearer: IntArray = low * (2 * factor - weight) + high * weight
    return nearer
