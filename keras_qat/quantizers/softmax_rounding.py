"""`SoftmaxRounding`: the fixed output grid of SOFTMAX in runtimes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_qat")
class SoftmaxRounding(keras.layers.Layer):
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
        return x if training else round_to_codes(x / self.scale, self.grid) * self.scale


PutsOnGrid = Quantizer | SoftmaxRounding
"""The layers that put their output on a grid."""
