"""The mean over an image in inference, rounded as a target's MEAN rounds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.arithmetic import Arithmetic, RoundsAsTarget
from keras_qat.integer.op_numbers import fixed_point_multiplier, fused_multiply_add
from keras_qat.integer.qparams import INT8_MAX
from keras_qat.keras_fixed_point import rounded_twice
from keras_qat.quantized_layers.target_codes import EXACT_IN_FLOAT32, LEVELS, on_grid_behind
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.int8_grids import has_integers, rounding_if
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers, wide

_MOST_PIXELS = 32 * 32


@dataclasses.dataclass(frozen=True)
class MeanOfCodes:
    """The quantizers around a global average pooling. They are found in the graph, never saved.

    Attributes:
        before: the layer that puts the image on its grid.
        output: the quantizer of the mean.
        count: the number of pixels.
        pooling: the layer. A plain Keras layer yields the float mean.
    """

    before: PutsOnGrid
    output: ActivationQuantizer
    count: int
    pooling: Any = None

    @property
    def knows_sums(self) -> bool:
        """Whether the sums of all images are known: from codes, or from the float mean.

        The float mean tells sums of 8-bit codes apart up to 32 x 32 pixels. Measured on random
        images, sums found from it were off by up to 0.13 there, and by 1.7 at 64 x 64.
        """
        return isinstance(self.pooling, _MeanOfImage) or self.count <= _MOST_PIXELS

    def has_integers(self) -> Any:
        """Whether int8 can hold what both grids have learned so far: a bool, or a tensor."""
        return has_integers(self.before, self.output)

    def yields_codes(self, arithmetic: Arithmetic) -> bool:
        """Whether the pooling has rounded already."""
        return self.sums_codes(arithmetic) and self.has_integers() is True

    def sums_codes(self, arithmetic: Arithmetic) -> bool:
        """Whether the pooling computes its mean from codes, as the target does."""
        exact = arithmetic.fixed_point or arithmetic.arm64
        return exact and isinstance(self.pooling, _MeanOfImage)

    def rounding(self, arithmetic: Arithmetic) -> Rounding:
        """In fixed point, rounds the sum of the codes, with a mantissa divided by their number.

        As on arm64, rescales the sum in float32. Where the pooling has not summed codes, the sum is
        found from the float mean, if that tells all sums apart (`knows_sums`).
        """
        exact = arithmetic.fixed_point or arithmetic.arm64
        if not exact or not self.knows_sums or self.sums_codes(arithmetic):
            return round_to_codes
        return rounding_if(self.has_integers(), self._from_mean(arithmetic), round_to_codes)

    @in_wide_numbers
    def mean(self, x: Tensor, axes: tuple[int, ...], arithmetic: Arithmetic) -> Tensor:
        """The mean of an image on its grid, as the target rounds it, on the grid behind."""
        codes = ops.round(ops.cast(x, "float32") / self.before.scale)
        if self.count * (LEVELS - 1) >= EXACT_IN_FLOAT32:
            codes = wide(codes)
        total = wide(ops.sum(codes, axis=axes, keepdims=True))
        steps = self._steps_of_sum(arithmetic)(total)
        return on_grid_behind(ops.cast(steps, "float32"), self.output)

    @in_wide_numbers
    def _from_mean(self, arithmetic: Arithmetic) -> Rounding:
        codes_of_mean = wide(self.output.scale) / wide(self.before.scale) * self.count
        steps_of_sum = self._steps_of_sum(arithmetic)

        @in_wide_numbers
        def from_mean(ratio: Tensor, grid: Grid) -> Tensor:
            steps = steps_of_sum(ops.round(wide(ratio) * codes_of_mean))
            return round_to_codes(ops.cast(steps, "float32"), grid)

        return from_mean

    def _steps_of_sum(self, arithmetic: Arithmetic) -> Callable[[Tensor], Tensor]:
        """The mean in steps of the output, from a whole float64 sum. It reads no variable later."""
        return self._fused() if arithmetic.arm64 else self._rounded_twice()

    def _fused(self) -> Callable[[Tensor], Tensor]:
        """`rounded_mean` of `keras_qat.integer.ops.pool`: each `a * b + c` is rounded once."""
        before, output = self.before.scale, self.output.scale
        multiplier = wide(before / output * (1 / np.float32(self.count)))
        x_point, y_point = (
            float(INT8_MAX) - wide(each.forward_grid().qmax) for each in (self.before, self.output)
        )
        of_image = x_point * self.count
        offset = fused_multiply_add(ops, -of_image, multiplier, y_point)
        return lambda total: (
            ops.round(fused_multiply_add(ops, total + of_image, multiplier, offset)) - y_point
        )

    def _rounded_twice(self) -> Callable[[Tensor], Tensor]:
        before, output = (wide(each.scale) for each in (self.before, self.output))
        mantissa, shift = fixed_point_multiplier(ops, before / output)
        spare = ops.minimum(min(self.count.bit_length() - 1, 32), 31 + shift)
        mantissa = ops.left_shift(mantissa, spare) // self.count
        return lambda total: rounded_twice(ops.cast(total, "int64"), mantissa, shift - spare)


class _MeanOfImage(RoundsAsTarget):
    """Base of the poolings: in inference as a target does, computes the mean from codes."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.connections: dict[int, MeanOfCodes] = {}

    def call(self, x: Tensor, mask: Any = None, training: bool = False) -> Tensor:
        if mask is not None:  # of sequences; no op of the integer model has one
            return super().call(x, mask=mask)
        told = self.connections.get(0)
        if training or told is None or not told.sums_codes(self.arithmetic):
            return super().call(x)
        axes = tuple(range(1, len(x.shape) - 1))
        exact = ops.cast(told.mean(x, axes, self.arithmetic), self.compute_dtype)
        exact = exact if self.keepdims else ops.squeeze(exact, axes)
        held = told.has_integers()
        return exact if held is True else ops.where(held, exact, super().call(x))

    def compute_output_spec(self, x: Tensor, mask: Any = None, training: bool = False) -> Any:
        return super().compute_output_spec(x)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeGlobalAveragePooling1D(_MeanOfImage, keras.layers.GlobalAveragePooling1D):
    """`y = mean(x)` over steps. In inference as a target does: the mean of its MEAN."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeGlobalAveragePooling2D(_MeanOfImage, keras.layers.GlobalAveragePooling2D):
    """`y = mean(x)` over pixels. In inference as a target does: the mean of its MEAN."""
