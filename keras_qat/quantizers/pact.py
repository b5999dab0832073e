"""`PACTQuantizer`: the clipping level of activations is learned."""

from __future__ import annotations

import keras

from keras_qat.quantizers.activation_quantizer import ActivationQuantizer
from keras_qat.quantizers.fake_quantize import Rounding, learned_clipping
from keras_qat.quantizers.learned_scale import LearnedScale
from keras_qat.quantizers.replacement import Selection
from keras_qat.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_qat")
class PACTQuantizer(LearnedScale, ActivationQuantizer):
    """Parameterized clipping activation.

    Forward: `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Backward, with `v = x / scale`,
    code `q` and `inside = [qmin < v < qmax]`: `dx = passed * inside` and
    `dscale = sum g * q * (1 - inside)`. The estimator computes `passed` from the upstream gradient
    `g`. Only clipped elements move the clipping level `alpha = scale * qmax`. The scale is the
    product of a calibrated constant and a trained ratio (`LearnedScale`).

    Source: Choi et al. 2018 (arXiv 1805.06085). The ratio, signed grids and the start from
    calibration are our own. The paper's L2 penalty on alpha is left to the user.

    Args:
        grid, estimator, replacement, seed: see `Quantizer`.

    >>> from keras_qat.quantizers import Grid
    >>> quantizer = PACTQuantizer(Grid.for_activations(2, signed=False))
    >>> [float(v) for v in quantizer(keras.ops.array([-1.0, 0.6, 2.2, 9.0]))]
    [0.0, 1.0, 2.0, 3.0]
    """

    def fake_quantize(
        self, x: Tensor, rounding: Rounding, selection: Selection | None = None
    ) -> Tensor:
        return learned_clipping(x, self.scale, self.grid, rounding, self.estimator_now(), selection)
