"""SOFTMAX over the last axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN, IntArray, QuantParams

SOFTMAX_OUTPUT = QuantParams(np.array(1 / 256, np.float32), zero_point=INT8_MIN)
"""The one output grid that runtimes accept: 256 levels from 0 to 255/256."""


@dataclasses.dataclass(frozen=True, eq=False)
class Softmax(IntegerOp):
    """Probabilities over the last axis, always on the grid `SOFTMAX_OUTPUT`."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return shape

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        below_max = x.values.max(axis=-1, keepdims=True).astype(np.int32) - x.values
        table = np.exp(-x.qparams.scale * np.arange(256, dtype=np.float32))
        exponentials = table[below_max]
        total = exponentials.sum(axis=-1, keepdims=True, dtype=np.float32)
        steps = np.rint(exponentials * (np.float32(1.0) / (total * output.scale)))
        return np.asarray(np.clip(steps + output.zero_point, INT8_MIN, INT8_MAX), dtype=np.int8)
