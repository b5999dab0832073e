"""GATHER: the values at chosen places of one axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class Gather(IntegerOp):
    """`take(x, indices, axis)`: any order of the places of one axis, each as often as wanted.

    Attributes:
        indices: the places, from 0 on.
        axis: the axis, with the batch as axis 0. The batch itself cannot be gathered.
    """

    indices: tuple[int, ...]
    axis: int

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        fits = 0 < self.axis < len(shape) and self.indices
        if not fits or not 0 <= min(self.indices) <= max(self.indices) < shape[self.axis]:
            raise ValueError(
                f"Op {self.output!r} cannot take the places {self.indices} of axis {self.axis} of "
                f"shape {shape}."
            )
        return (*shape[: self.axis], len(self.indices), *shape[self.axis + 1 :])

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        return np.take(x.values, self.indices, axis=self.axis)
