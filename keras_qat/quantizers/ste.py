"""`STEQuantizer`: a calibrated scale that stays, gradients straight through."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.quantizers.fake_quantize import fixed_step_size
from keras_qat.quantizers.quantizer import Quantizer


@keras.saving.register_keras_serializable(package="keras_qat")
class STEQuantizer(Quantizer):
    """A calibrated scale that is not trained; the straight-through estimator by default.

    Forward: `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Backward:
    `dx = passed * [qmin < x / scale < qmax]`, where the estimator makes `passed` of the upstream
    gradient (`keras_qat.quantizers.fake_quantize`).

    Source: Bengio et al. 2013 (arXiv 1308.3432), clipped at the ends of the grid.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = STEQuantizer(Grid.for_activations(2, signed=False))
    >>> [float(v) for v in quantizer(keras.ops.array([-1.0, 0.6, 2.2, 9.0]))]
    [0.0, 1.0, 2.0, 3.0]
    """

    def fake_quantize(self, x: Any, rounding: Any, selection: Any = None) -> Any:
        return fixed_step_size(x, self.scale, self.grid, rounding, self.estimator_now(), selection)
