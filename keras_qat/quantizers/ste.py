"""`STEQuantizer`: a calibrated scale that stays, gradients straight through."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.quantizers.estimators import straight_through
from keras_qat.quantizers.quantizer import Quantizer


@keras.saving.register_keras_serializable(package="keras_qat")
class STEQuantizer(Quantizer):
    """Fixed grid with the straight-through estimator.

    Forward: `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Backward:
    `dx = g * [qmin < x / scale < qmax]`. The scale comes from calibration and is not trained.

    Source: Bengio et al. 2013 (arXiv 1308.3432), clipped at the ends of the grid.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = STEQuantizer(Grid.for_activations(2, signed=False))
    >>> [float(v) for v in quantizer(keras.ops.array([-1.0, 0.6, 2.2, 9.0]))]
    [0.0, 1.0, 2.0, 3.0]
    """

    def fake_quantize(self, x: Any, rounding: Any) -> Any:
        return straight_through(x, self.scale, self.grid, rounding)
