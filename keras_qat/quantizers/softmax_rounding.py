"""`SoftmaxRounding`: the fixed output grid of the runtimes' SOFTMAX."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.quantizer import Quantizer

_GRID = Grid.for_activations(8, signed=False)


@keras.saving.register_keras_serializable(package="keras_qat")
class SoftmaxRounding(Quantizer):
    """Rounds probabilities to steps of 1/256 in inference, as the runtimes' SOFTMAX does.

    Forward, in inference: `p_hat = round(min(256 * p, 255)) / 256`; in training: `p`. The
    logarithm of a probability that is rounded to 0 has no gradient, so a loss reads the
    probabilities unrounded while it trains. Evaluation and prediction see what ships.

    >>> probabilities = keras.ops.array([0.001, 0.999])
    >>> [float(p) for p in SoftmaxRounding()(probabilities, training=False)]
    [0.0, 0.99609375]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(grid=_GRID, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Holds no variable: the grid is the runtimes' own."""

    @property
    def scale(self) -> Any:
        return ops.convert_to_tensor(SOFTMAX_OUTPUT.scale)

    def call(self, x: Any, training: bool = False) -> Any:
        return x if training else round_to_codes(x / self.scale, self.grid) * self.scale

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for fixed in (
            "grid",
            "per_channel",
            "estimator",
            "replacement",
            "seed",
            "code_regularization",
        ):
            del config[fixed]
        return config
