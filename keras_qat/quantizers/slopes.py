"""`SlopeQuantizer`: the learned slopes of a PReLU."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.lsq import LSQWeightQuantizer

_SLOPES = Grid.for_weights(8)


@keras.saving.register_keras_serializable(package="keras_qat")
class SlopeQuantizer(LSQWeightQuantizer):
    """Quantizes slopes to 8 bits with one learned scale, as runtimes require.

    Forward and backward: see `LSQWeightQuantizer`. Slopes that are all zero, as Keras initializes
    them, start with a range of -1 to 1.

    >>> quantizer = SlopeQuantizer()
    >>> quantizer.build((1, 1, 4))
    >>> quantizer.calibrate_weights(np.zeros((1, 1, 4)))
    >>> round(float(quantizer.scale) * 127, 6)
    1.0
    """

    def __init__(self, grid: Grid | dict[str, int] = _SLOPES, **kwargs: Any):
        super().__init__(grid, **kwargs)

    def calibrate_weights(self, kernel: npt.NDArray[Any]) -> None:
        if np.any(kernel):
            super().calibrate_weights(kernel)
        else:
            self.set_scale(1.0 / self.grid.qmax)
