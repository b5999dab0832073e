"""CONCATENATION: tensors on one grid, joined along an axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class Concatenate(IntegerOp):
    """Tensors joined along `axis`. Axis 0 is the batch and cannot be joined."""

    axis: int

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        first, axis = shapes[0], self.axis
        if not 0 < axis < len(first):
            raise ValueError(f"Op {self.output!r}: tensors of shape {first} have no axis {axis}.")
        if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
            raise ValueError(
                f"Op {self.output!r} cannot join its inputs along axis {axis}: their other sizes "
                f"differ. Received: shapes {list(shapes)}"
            )
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        return np.concatenate([x.values for x in inputs], axis=self.axis)
