"""Ops that move integers and change none: RESHAPE, PAD, STRIDED_SLICE and TRANSPOSE."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class Reshape(IntegerOp):
    """The same integers in a new shape. `target_shape` leaves the batch out."""

    target_shape: Shape

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if math.prod(shape[1:]) != math.prod(self.target_shape):
            raise ValueError(
                f"Op {self.output!r} cannot reshape {shape[1:]} to {self.target_shape}: the sizes "
                "differ."
            )
        return (shape[0], *self.target_shape)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        return x.values.reshape(x.values.shape[0], *self.target_shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Pad(IntegerOp):
    """The real number 0, stored as the zero point, around height and width."""

    pads: tuple[tuple[int, int], tuple[int, int]]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        ((batch, height, width, channels),) = shapes
        return (batch, height + sum(self.pads[0]), width + sum(self.pads[1]), channels)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        pads = [(0, 0), *self.pads, (0, 0)]
        return np.pad(x.values, pads, constant_values=x.qparams.zero_point)


@dataclasses.dataclass(frozen=True, eq=False)
class Crop(IntegerOp):
    """An image without some rows and columns at its edges."""

    crops: tuple[tuple[int, int], tuple[int, int]]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        ((batch, height, width, channels),) = shapes
        rows, columns = height - sum(self.crops[0]), width - sum(self.crops[1])
        if min(rows, columns) < 1:
            raise ValueError(
                f"Op {self.output!r} cannot crop {self.crops} from {height}x{width}: nothing is "
                "left."
            )
        return (batch, rows, columns, channels)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        (top, bottom), (left, right) = self.crops
        rows, columns = x.values.shape[1:3]
        return x.values[:, top : rows - bottom, left : columns - right]


@dataclasses.dataclass(frozen=True, eq=False)
class Transpose(IntegerOp):
    """Axes in another order. `axes` leaves the batch out and counts from 1, as in Keras."""

    axes: tuple[int, ...]

    @property
    def permutation(self) -> tuple[int, ...]:
        """The order of all axes, the batch first."""
        return (0, *self.axes)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if sorted(self.permutation) != list(range(len(shape))):
            raise ValueError(
                f"Op {self.output!r}: the axes {self.axes} do not order the axes of shape {shape}."
            )
        return tuple(shape[axis] for axis in self.permutation)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        return x.values.transpose(self.permutation)
