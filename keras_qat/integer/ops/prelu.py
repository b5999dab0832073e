"""PRELU: slope 1 above zero, learned slopes below."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import (
    QuantizedArray,
    Shape,
    UnaryOp,
    finish,
    rescale_of,
)
from keras_qat.integer.qparams import IntArray, QuantParams

_ONE = QuantParams(np.ones((), np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class PReLU(UnaryOp):
    """`x` where it is not negative, else `slopes * x`. Either is rescaled once.

    Attributes:
        slopes: learned integers (int8, zero point 0, one scale) that broadcast to an example.
    """

    slopes: QuantizedArray

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of the input.

        Raises:
            ValueError: slopes that do not broadcast to the input.
        """
        (shape,) = shapes
        slopes = self.slopes.values.shape
        own = shape[len(shape) - len(slopes) :]
        if len(own) < len(slopes) or any(
            size not in (1, full) for size, full in zip(slopes, own, strict=True)
        ):
            raise ValueError(
                f"The slopes of {self.output!r} do not broadcast to its input. Received: slopes "
                f"{slopes}, input {shape}"
            )
        return shape

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        values = x.centered()
        above = profile.prelu(values, rescale_of(x, _ONE, output))
        products = values * self.slopes.values.astype(np.int32)
        below = profile.prelu(products, rescale_of(x, self.slopes.qparams, output))
        return finish(np.where(values >= 0, above, below), output)
