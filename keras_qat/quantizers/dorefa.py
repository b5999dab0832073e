"""`DoReFaQuantizer`: a hyperbolic tangent squashes the weights before they are rounded."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding, fixed_step_size
from keras_qat.quantizers.grid import Grid, check_bits
from keras_qat.quantizers.replacement import Selection
from keras_qat.quantizers.weight_quantizer import WeightQuantizer
from keras_qat.tensors import Tensor

_WIDEST_IN_HALF_STEPS = 7
_SMALLEST = 1e-12


@keras.saving.register_keras_serializable(package="keras_qat")
class DoReFaQuantizer(WeightQuantizer):
    """Weights on `2**bits` evenly spaced levels from `-a` to `a`, through a hyperbolic tangent.

    Forward: `t = tanh(w) / max|tanh(w)|` in [-1, 1], over the weights that share a scale, and
    `w_hat = a * (2 * round(n * (t + 1) / 2) / n - 1)` with `n = 2**bits - 1`. The codes are
    `-n, -n + 2, ..., n`, with the scale `a / n`. At 8 bits these do not fit in int8: the codes are
    then -127 to 127. Backward: `dw = passed * a * (1 - tanh(w)**2) / max|tanh(w)|`. The estimator
    computes `passed` from the upstream gradient, and the maximum counts as a constant.

    `a` is `max|w|` of the calibrated weights and is not trained, so a trained network starts where
    it was. The paper trains from scratch with `a = 1` (and at 1 bit `a = mean|w|`).

    None of these levels is zero. With `preserve_sparsity`, the codes at 2 bits and more are
    `-n, ..., n` with `n = 2**(bits - 1) - 1`, as at 8 bits: one level less, and zero is one.

    Source: Zhou et al. 2016 (arXiv 1606.06160), equation 9.

    Args:
        bits: the bit width, 1 to 8.
        per_channel, code_regularization, estimator, replacement, seed: see `WeightQuantizer`.
        preserve_sparsity, preserve_clusters: see `WeightQuantizer`.

    Raises:
        ValueError: bits that are not a whole number from 1 to 8.

    >>> quantizer = DoReFaQuantizer(bits=1)
    >>> [float(w) for w in quantizer(keras.ops.array([-0.6, -0.1, 0.5]))]
    [-1.0, -1.0, 1.0]
    """

    def __init__(self, bits: int = 8, preserve_sparsity: bool = False, **kwargs: Any):
        check_bits(bits, "bits of weights")
        with_zero = bits > _WIDEST_IN_HALF_STEPS or (preserve_sparsity and bits > 1)
        top = 2 ** (bits - 1) - 1 if with_zero else 2**bits - 1
        grid = Grid(-top, top, step=1 if with_zero else 2)
        super().__init__(grid, preserve_sparsity=preserve_sparsity, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.calibrated_scale.assign(ops.full(self.calibrated_scale.shape, 1.0 / self.grid.qmax))

    def calibrate_weights(self, kernel: npt.NDArray[Any]) -> None:
        """Sets the scale with which the outermost codes stand for `-max|w|` and `max|w|`."""
        largest = np.maximum(np.max(np.abs(kernel), axis=self._within_channel(kernel)), _SMALLEST)
        self.calibrated_scale.assign(np.float32(largest / self.grid.qmax))

    def outgrown(self, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The factor between `max|w|` now and when the scale was set, channel by channel."""
        largest = np.max(np.abs(kernel), axis=self._within_channel(kernel))
        return np.asarray(largest / ops.convert_to_numpy(self.ends()))

    def fake_quantize(
        self, x: Tensor, rounding: Rounding, selection: Selection | None = None
    ) -> Tensor:
        return fixed_step_size(x, self.scale, self.grid, rounding, self.estimator_now(), selection)

    def prepare(self, x: Tensor) -> Tensor:
        """`a * t`, which is rounded to evenly spaced codes."""
        squashed = ops.tanh(ops.cast(super().prepare(x), "float32"))
        axes = tuple(range(len(x.shape) - 1)) if self.per_channel else None
        largest = ops.max(ops.abs(ops.stop_gradient(squashed)), axis=axes, keepdims=True)
        return squashed * (self.ends() / ops.maximum(largest, _SMALLEST))

    def ends(self) -> Tensor:
        """`a`, the real value of the largest code, in the shape of the scale."""
        return as_tensor(self.calibrated_scale) * float(self.grid.qmax)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["grid"]
        return {**config, "bits": self.bits}
