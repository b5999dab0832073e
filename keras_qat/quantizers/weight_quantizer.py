"""`WeightQuantizer`: the base of quantizers of kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.initial_scale import least_error_weight_scale
from keras_qat.quantizers.preserved import PRESERVED, first_of_equals, own_places, tied
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.tensors import Tensor


class WeightQuantizer(Quantizer):
    """Base of the quantizers of kernels, whose output channels are on the last axis.

    A subclass implements `fake_quantize(x, rounding, selection)`.

    Args:
        grid, estimator, replacement, seed: see `Quantizer`.
        per_channel: one scale for each channel of the last axis, instead of one for the kernel.
        code_regularization: the factor of the loss that pulls weights to their codes
            (`keras_qat.training.losses.sinusoidal_regularization`); 0 adds no such loss.
        preserve_sparsity: whether weights that are zero in the kernel of `remember` stay zero.
        preserve_clusters: whether weights that share a scale and are equal in that kernel stay
            equal (`keras_qat.quantizers.preserved`).

    Call arguments:
        x: the kernel.
        training: whether the model trains.
    """

    def __init__(
        self,
        grid: Grid | dict[str, int],
        per_channel: bool = False,
        code_regularization: float = 0.0,
        preserve_sparsity: bool = False,
        preserve_clusters: bool = False,
        **kwargs: Any,
    ):
        super().__init__(grid, **kwargs)
        self.per_channel = per_channel
        self.code_regularization = float(code_regularization)
        self.preserve_sparsity = preserve_sparsity
        self.preserve_clusters = preserve_clusters

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if self.preserve_sparsity:
            self.kept = self._add_memory("kept", input_shape, "ones", "bool")
        if self.preserve_clusters:
            self.first_equal = self._add_memory("first_equal", input_shape, own_places, "int32")

    def _add_memory(self, name: str, shape: Any, initializer: Any, dtype: str) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
        )

    @property
    def regularized(self) -> bool:
        """Whether the training loss has a term of this quantizer."""
        return self.code_regularization > 0.0

    def scale_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(channels,)`, or `()` for one scale for the kernel."""
        return (input_shape[-1],) if self.per_channel else ()

    def remember(self, kernel: npt.NDArray[Any]) -> None:
        """Notes the zeros and the equal weights of a kernel, as far as they are preserved."""
        if self.preserve_sparsity:
            self.kept.assign(kernel != 0.0)
        if self.preserve_clusters:
            self.first_equal.assign(first_of_equals(kernel, self.per_channel))

    def prepare(self, x: Tensor) -> Tensor:
        """The kernel with its preserved zeros and clusters, whatever an optimizer did to it."""
        if self.preserve_clusters:
            x = tied(x, as_tensor(self.first_equal))
        if self.preserve_sparsity:
            x = x * ops.cast(as_tensor(self.kept), x.dtype)
        return x

    def calibrate_weights(self, kernel: npt.NDArray[Any]) -> None:
        """Sets the scale with the least squared error on a kernel.

        Raises:
            ValueError: weights that are NaN or infinite.
        """
        self.set_scale(least_error_weight_scale(kernel, self.grid, self.per_channel))

    def outgrown(self, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The factor between the scale that fits a kernel now and the scale, channel by channel.

        It is 1 where nothing is clipped.
        """
        scale = np.asarray(ops.convert_to_numpy(self.scale), np.float64)
        codes = np.abs(kernel) / scale
        clipped = np.max(codes, axis=self._within_channel(kernel)) > self.grid.qmax + 0.5
        wanted = least_error_weight_scale(kernel, self.grid, self.per_channel)
        return np.where(clipped, wanted / scale, 1.0)

    def share_beyond(self, kernel: Tensor) -> float:
        """The share of the weights that are more than half a step beyond the ends of their grid."""
        steps = self._steps_of_grid(kernel)
        distance = np.abs(ops.convert_to_numpy(self.position(kernel)) - 0.5 * steps)
        return float(np.mean(distance > 0.5 * steps + 0.5))

    def _steps_of_grid(self, kernel: Tensor) -> Any:
        """How many steps lie between the ends of the grid, for each channel or for all."""
        return (self.grid.qmax - self.grid.qmin) / self.grid.step

    def _within_channel(self, kernel: npt.NDArray[Any]) -> tuple[int, ...] | None:
        return tuple(range(kernel.ndim - 1)) if self.per_channel else None

    def widen(self, factors: npt.NDArray[Any]) -> None:
        """Multiplies the range of every channel by a factor; what was learned stays."""
        self.calibrated_scale.assign(as_tensor(self.calibrated_scale) * np.float32(factors))

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        return self._fake_quantized(x, round_to_codes, training)

    def largest_code(self, kernel: Tensor) -> Any:
        """An upper bound of `abs(code)` for a kernel: one number, or one for each channel."""
        return max(-self.grid.qmin, self.grid.qmax)

    def learned_bits(self, kernel: Tensor) -> int:
        """The bit width of the codes of a kernel."""
        return self.bits

    def deployed_codes(self, kernel: Tensor, name: str) -> npt.NDArray[np.int32]:
        """The codes of a kernel for a file; errors name the layer `name`.

        Raises:
            LoweringError: a file cannot hold the codes learned so far.
        """
        return np.asarray(ops.convert_to_numpy(self.codes(kernel)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "per_channel": self.per_channel,
            "code_regularization": self.code_regularization,
            **{option: True for option in PRESERVED if getattr(self, option)},
        }
