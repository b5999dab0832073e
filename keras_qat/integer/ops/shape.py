"""Ops that move integers and change none: RESHAPE and PAD."""

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
    """Same integers in a new shape; `target_shape` leaves the batch out."""

    target_shape: Shape

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if math.prod(shape[1:]) != math.prod(self.target_shape):
            raise ValueError(
                f"Cannot reshape {shape[1:]} to {self.target_shape}: the sizes differ."
            )
        return (shape[0], *self.target_shape)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        return x.values.reshape(x.values.shape[0], *self.target_shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Pad(IntegerOp):
    """Real zeros, that is the zero point, around height and width."""

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
