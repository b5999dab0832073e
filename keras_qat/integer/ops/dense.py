"""FULLY_CONNECTED: a matrix product."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import (
    LinearOp,
    QuantizedArray,
    Shape,
    accumulate,
    finish,
    rescale_of,
)
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class FullyConnected(LinearOp):
    """Matrix product on the last axis. The weights have the layout (out, in), channel axis 0."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return (*shape[:-1], self.weight.values.shape[0])

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        bound = self.accumulator_bound(x.qparams)
        accumulator = accumulate(x.centered(), self.weight.values.T, bound)
        accumulator += self.integer_bias(x.qparams.scale)
        steps = profile.fully_connected(accumulator, rescale_of(x, self.weight.qparams, output))
        return finish(steps, output, self.activation)
