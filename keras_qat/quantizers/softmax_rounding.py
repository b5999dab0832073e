"""`SoftmaxRounding`: the fixed output grid of SOFTMAX in runtimes."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.arithmetic import RoundsAsTarget
from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.fixed_point_softmax import softmax_steps, table_softmax_steps
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.int8_grids import chosen, has_integers
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers, wide

_SMALLEST = 1e-37
"""Of float32 probabilities, without subnormal ones. The kernel takes less than 1e-13 for 0."""
_LARGEST_DISTANCE = 255.0
_NOT_COUNTED = 40.0
"""The kernel counts no score that is 32 or more below the largest one."""


@dataclasses.dataclass(frozen=True)
class CodesOfScores:
    """The layer that puts the scores before a softmax on their grid. It is found in the graph."""

    scores: Any

    @in_wide_numbers
    def of_kernel(self, float_probabilities: Tensor, arm64: bool = False) -> Tensor:
        """The probabilities of the fixed-point kernel, from the probabilities of a float softmax.

        The kernel reads distances to the largest code, `d = log(p_largest / p) / s`. Those that it
        counts are below 32 in real units. The float error of the logarithm is below 4e-6 there, so
        scales down to 1e-5 are safe.

        Args:
            float_probabilities: what the float softmax yields.
            arm64: compute as LiteRT's kernel on arm64 instead, which reads the same distances.
        """
        p, scale = (wide(x) for x in (float_probabilities, self.scores.scale))
        largest = ops.max(p, axis=-1, keepdims=True)
        below = ops.log(largest / ops.maximum(p, _SMALLEST))
        distance = ops.where(below > _NOT_COUNTED, _LARGEST_DISTANCE, below / scale)
        below_largest = ops.cast(ops.round(ops.minimum(distance, _LARGEST_DISTANCE)), "int64")
        kernel = table_softmax_steps if arm64 else softmax_steps
        steps = ops.minimum(kernel(below_largest, scale), 255)
        return ops.cast(steps, "float32") * np.float32(SOFTMAX_OUTPUT.scale)


@keras.saving.register_keras_serializable(package="keras_qat")
class SoftmaxRounding(RoundsAsTarget):
    """Rounds probabilities to steps of 1/256 in inference, as SOFTMAX does in runtimes.

    Forward: `p_hat = round(min(256 * p, 255)) / 256` in inference, `p_hat = p` in training.
    Gradient, in training: `dp = g`. The logarithm of a probability that is rounded to 0 has no
    gradient, so a loss in training reads unrounded probabilities. Evaluation and prediction see the
    probabilities of the exported file.

    The layer learns nothing, so it is not a `Quantizer`. It describes its grid with the same
    properties.

    >>> probabilities = keras.ops.array([0.001, 0.999])
    >>> [float(p) for p in SoftmaxRounding()(probabilities, training=False)]
    [0.0, 0.99609375]
    """

    bits = 8
    grid = Grid.for_activations(bits, signed=False)
    deployable = True

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.connections: dict[int, CodesOfScores] = {}
        self.built = True

    @property
    def scale(self) -> Tensor:
        """The real value of code 1."""
        return ops.convert_to_tensor(SOFTMAX_OUTPUT.scale)

    def forward_grid(self) -> Grid:
        """The codes in the forward pass."""
        return self.grid

    def qparams(self) -> QuantParams:
        """The output grid of SOFTMAX in runtimes."""
        return self.grid.qparams(np.float32(SOFTMAX_OUTPUT.scale))

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if training:
            return x

        def rounded_once() -> Tensor:
            return round_to_codes(x / self.scale, self.grid) * self.scale

        told = self.connections.get(0)
        arm64 = self.arithmetic.arm64
        if told is None or not (self.arithmetic.fixed_point or arm64):
            return rounded_once()
        return chosen(has_integers(told.scores), lambda: told.of_kernel(x, arm64), rounded_once)


PutsOnGrid = Quantizer | SoftmaxRounding
"""The layers that put their output on a grid."""
