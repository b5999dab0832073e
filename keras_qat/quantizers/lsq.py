"""`LSQWeightQuantizer`, `LSQActivationQuantizer`: the scale is learned with the weights."""

from __future__ import annotations

import math

import keras

from keras_qat.quantizers.activation_quantizer import ActivationQuantizer
from keras_qat.quantizers.fake_quantize import Rounding, learned_step_size
from keras_qat.quantizers.learned_scale import LearnedScale
from keras_qat.quantizers.replacement import Selection
from keras_qat.quantizers.weight_quantizer import WeightQuantizer
from keras_qat.tensors import Tensor


class _LSQQuantizer(LearnedScale):
    """The part of LSQ that weights and activations share."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        sharing = input_shape[:-1] if len(self.calibrated_scale.shape) else input_shape
        elements = math.prod(size or 1 for size in sharing)  # None: the batch does not count
        self.gradient_scale = 1.0 / math.sqrt(elements * self.grid.positive_codes)

    def fake_quantize(
        self, x: Tensor, rounding: Rounding, selection: Selection | None = None
    ) -> Tensor:
        return learned_step_size(
            x,
            self.scale,
            self.grid,
            self.gradient_scale,
            rounding,
            self.estimator_now(),
            selection,
        )


@keras.saving.register_keras_serializable(package="keras_qat")
class LSQWeightQuantizer(_LSQQuantizer, WeightQuantizer):
    """Learned step size quantization of weights.

    Forward: `w_hat = scale * round(clip(w / scale, qmin, qmax))`. Backward, with `v = w / scale`,
    code `q` and `inside = [qmin < v < qmax]`: `dw = g * inside` and
    `dscale = sum g * (q - v * inside) / sqrt(n * qmax)`, where `n` weights share a scale.
    Estimators other than "ste" change both (`keras_qat.quantizers.fake_quantize`).

    The scale is the product of a calibrated constant and a trained ratio (`LearnedScale`).

    Source: Esser et al. 2020 (arXiv 1902.08153); the ratio is our own.

    Args:
        grid, per_channel, code_regularization, estimator, replacement, seed: see
            `WeightQuantizer`.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = LSQWeightQuantizer(Grid.for_weights(2))
    >>> [float(w) for w in quantizer(keras.ops.array([-9.0, -0.6, 0.4, 9.0]))]
    [-2.0, -1.0, 0.0, 1.0]
    """


@keras.saving.register_keras_serializable(package="keras_qat")
class LSQActivationQuantizer(_LSQQuantizer, ActivationQuantizer):
    """Learned step size quantization of activations.

    Forward: `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Backward, with `v = x / scale`,
    code `q` and `inside = [qmin < v < qmax]`: `dx = g * inside` and
    `dscale = sum g * (q - v * inside) / sqrt(n * qmax)`, where one example has `n` features.
    Estimators other than "ste" change both (`keras_qat.quantizers.fake_quantize`).

    The scale is the product of a calibrated constant and a trained ratio (`LearnedScale`).

    Source: Esser et al. 2020 (arXiv 1902.08153); the ratio is our own.

    Args:
        grid, estimator, replacement, seed: see `Quantizer`.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = LSQActivationQuantizer(Grid.for_activations(2, signed=False))
    >>> [float(v) for v in quantizer(keras.ops.array([-1.0, 0.6, 2.2, 9.0]))]
    [0.0, 1.0, 2.0, 3.0]
    """
