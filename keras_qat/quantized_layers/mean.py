"""The mean over an image in inference, rounded as a target's MEAN rounds it."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops

from keras_qat.arithmetic import Arithmetic
from keras_qat.integer.op_numbers import fixed_point_multiplier, fused_multiply_add
from keras_qat.integer.qparams import INT8_MAX
from keras_qat.keras_fixed_point import rounded_twice
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
    """

    before: PutsOnGrid
    output: ActivationQuantizer
    count: int

    @property
    def knows_sums(self) -> bool:
        """Whether the float mean tells all sums of 8-bit codes apart.

        Measured on random images, sums found from it were off by up to 0.13 at 32 x 32 pixels, and
        by 1.7 at 64 x 64.
        """
        return self.count <= _MOST_PIXELS

    def yields_codes(self, arithmetic: Arithmetic) -> bool:
        """False: the quantizer rounds."""
        return False

    def rounding(self, arithmetic: Arithmetic) -> Rounding:
        """In fixed point, rounds the sum of the codes, with a mantissa divided by their number.

        As on arm64, rescales the sum in float32. The sum is found from the float mean, if that
        tells all sums apart (`knows_sums`).
        """
        exact = arithmetic.fixed_point or arithmetic.arm64
        if not exact or not self.knows_sums:
            return round_to_codes
        held = has_integers(self.before, self.output)
        from_sum = self._rounding_fused() if arithmetic.arm64 else self._rounding_twice()
        return rounding_if(held, from_sum, round_to_codes)

    @in_wide_numbers
    def _rounding_fused(self) -> Rounding:
        """`rounded_mean` of `keras_qat.integer.ops.pool`: each `a * b + c` is rounded once."""
        before, output = self.before.scale, self.output.scale
        multiplier = wide(before / output * (1 / np.float32(self.count)))
        codes_of_mean = wide(output) / wide(before) * self.count
        x_point, y_point = (
            float(INT8_MAX) - wide(each.forward_grid().qmax) for each in (self.before, self.output)
        )
        offset = fused_multiply_add(ops, -x_point * self.count, multiplier, y_point)

        @in_wide_numbers
        def from_sum(ratio: Tensor, grid: Grid) -> Tensor:
            total = ops.round(wide(ratio) * codes_of_mean) + x_point * self.count
            steps = ops.round(fused_multiply_add(ops, total, multiplier, offset)) - y_point
            return round_to_codes(ops.cast(steps, "float32"), grid)

        return from_sum

    @in_wide_numbers
    def _rounding_twice(self) -> Rounding:
        before, output = (wide(each.scale) for each in (self.before, self.output))
        codes_of_mean = output / before * self.count
        mantissa, shift = fixed_point_multiplier(ops, before / output)
        spare = ops.minimum(min(self.count.bit_length() - 1, 32), 31 + shift)
        mantissa = ops.left_shift(mantissa, spare) // self.count

        @in_wide_numbers
        def from_sum(ratio: Tensor, grid: Grid) -> Tensor:
            total = ops.cast(ops.round(wide(ratio) * codes_of_mean), "int64")
            steps = rounded_twice(total, mantissa, shift - spare)
            return round_to_codes(ops.cast(steps, "float32"), grid)

        return from_sum
