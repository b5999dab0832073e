"""ARG_MAX: the place of the largest integer along an axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class ArgMax(IntegerOp):
    """The index of the largest integer along an axis; of several equal ones, the first.

    Its output is int32 and on no grid: an output of the graph.

    Attributes:
        axis: the axis, with the batch as axis 0. It is never the batch.
    """

    output_dtype: ClassVar[str] = "int32"

    axis: int

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        if not 0 < self.axis < len(shape):
            raise ValueError(f"Op {self.output!r} has no axis {self.axis} in shape {shape}.")
        return (*shape[: self.axis], *shape[self.axis + 1 :])

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> Any:
        (x,) = inputs
        return np.argmax(x.values, axis=self.axis).astype(np.int32)
