"""`LSQQuantizer`: the step size is learned with the weights."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_qat.quantizers.constraints import AtLeast
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import learned_step_size
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.quantizer import Quantizer

_SMALLEST_RATIO = 2.0**-10


@keras.saving.register_keras_serializable(package="keras_qat")
class LSQQuantizer(Quantizer):
    """Learned step size quantization.

    Forward: `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Backward, with `v = x / scale`,
    code `q` and `inside = [qmin < v < qmax]`: `dx = g * inside` and
    `dscale = sum g * (q - v * inside) / sqrt(elements * qmax)`; `elements` counts the weights of
    a channel, or the features of one example of an activation. Other estimators than "ste" change
    both (`keras_qat.quantizers.fake_quantize`).

    The scale is the product of two variables: `calibrated_scale`, a constant, and the trained
    `scale_ratio`, which starts at 1. An optimizer with steps of fixed size, like Adam, thus moves
    the scales of all layers at one relative pace, however small they are. A constraint keeps the
    ratio at `2**-10` or more.

    Source: Esser et al. 2020 (arXiv 1902.08153); the ratio is our own.

    >>> quantizer = LSQQuantizer(Grid.for_weights(2))
    >>> [float(v) for v in quantizer(keras.ops.array([-9.0, -0.6, 0.4, 9.0]))]
    [-2.0, -1.0, 0.0, 1.0]
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.scale_ratio = self.add_weight(
            name="scale_ratio",
            shape=self.calibrated_scale.shape,
            initializer="ones",
            constraint=AtLeast(_SMALLEST_RATIO),
            autocast=False,
        )
        sharing = input_shape[:-1] if self.per_channel else input_shape
        elements = math.prod(size or 1 for size in sharing)  # None: the batch does not count
        self.gradient_scale = 1.0 / math.sqrt(elements * self.grid.positive_codes)

    @property
    def scale(self) -> Any:
        return as_tensor(self.calibrated_scale) * as_tensor(self.scale_ratio)

    def set_scale(self, scale: Any) -> None:
        super().set_scale(scale)
        self.scale_ratio.assign(ops.ones(self.scale_ratio.shape))

    def fake_quantize(self, x: Any, rounding: Any, selection: Any = None) -> Any:
        return learned_step_size(
            x,
            self.scale,
            self.grid,
            self.gradient_scale,
            rounding,
            self.estimator_now(),
            selection,
        )


def lsq_initial_scale(x: Any, grid: Grid) -> Any:
    """The paper's start for the scale: `2 * mean|x| / sqrt(qmax)`.

    >>> float(lsq_initial_scale([1.0, -3.0], Grid(-2, 1)))
    4.0
    """
    return 2.0 * ops.mean(ops.abs(x)) / math.sqrt(grid.positive_codes)
