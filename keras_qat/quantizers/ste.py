"""`STEWeightQuantizer`, `STEActivationQuantizer`: a calibrated scale that is not trained."""

from __future__ import annotations

import keras

from keras_qat.quantizers.activation_quantizer import ActivationQuantizer
from keras_qat.quantizers.fake_quantize import Rounding, fixed_step_size
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.quantizers.replacement import Selection
from keras_qat.quantizers.weight_quantizer import WeightQuantizer
from keras_qat.tensors import Tensor


class _STEQuantizer(Quantizer):
    """The part that weights and activations share."""

    def fake_quantize(
        self, x: Tensor, rounding: Rounding, selection: Selection | None = None
    ) -> Tensor:
        return fixed_step_size(x, self.scale, self.grid, rounding, self.estimator_now(), selection)


@keras.saving.register_keras_serializable(package="keras_qat")
class STEWeightQuantizer(_STEQuantizer, WeightQuantizer):
    """Weights on a calibrated scale that is not trained; straight through by default.

    Forward: `w_hat = scale * round(clip(w / scale, qmin, qmax))`. Backward:
    `dw = passed * [qmin < w / scale < qmax]`. The estimator computes `passed` from the upstream
    gradient (`keras_qat.quantizers.fake_quantize`).

    Source: Bengio et al. 2013 (arXiv 1308.3432), clipped at the ends of the grid.

    Args:
        grid, per_channel, code_regularization, estimator, replacement, seed: see
            `WeightQuantizer`.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = STEWeightQuantizer(Grid.for_weights(2))
    >>> [float(w) for w in quantizer(keras.ops.array([-9.0, -0.6, 0.4, 9.0]))]
    [-2.0, -1.0, 0.0, 1.0]
    """


@keras.saving.register_keras_serializable(package="keras_qat")
class STEActivationQuantizer(_STEQuantizer, ActivationQuantizer):
    """Activations on a calibrated scale that is not trained; straight through by default.

    Forward: `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Backward:
    `dx = passed * [qmin < x / scale < qmax]`. The estimator computes `passed` from the upstream
    gradient (`keras_qat.quantizers.fake_quantize`).

    Source: Bengio et al. 2013 (arXiv 1308.3432), clipped at the ends of the grid.

    Args:
        grid, estimator, replacement, seed: see `Quantizer`.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = STEActivationQuantizer(Grid.for_activations(2, signed=False))
    >>> [float(v) for v in quantizer(keras.ops.array([-1.0, 0.6, 2.2, 9.0]))]
    [0.0, 1.0, 2.0, 3.0]
    """
