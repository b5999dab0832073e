"""The product of two tensors in inference, rounded as in integer kernels."""

from __future__ import annotations

import dataclasses

from keras import ops

from keras_qat.arithmetic import Arithmetic
from keras_qat.integer.op_numbers import fixed_point_multiplier
from keras_qat.keras_fixed_point import rounded_after_floor, rounded_twice
from keras_qat.quantized_layers.accumulators import accumulator_rounding
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.int8_grids import has_integers, rounding_if
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers, wide


@dataclasses.dataclass(frozen=True)
class ProductAccumulator:
    """The quantizers of both factors and of the product. They are found in the graph, never saved.

    Attributes:
        left: the layer that puts the first factor on its grid.
        right: the layer that puts the second factor on its grid.
        output: the quantizer of the product.
        ceiling: the ceiling of an activation before `output`; `None` without one.
    """

    left: PutsOnGrid
    right: PutsOnGrid
    output: ActivationQuantizer
    ceiling: float | None = None

    def yields_codes(self, arithmetic: Arithmetic) -> bool:
        """False: the quantizer rounds."""
        return False

    def rounding(self, arithmetic: Arithmetic) -> Rounding:
        """Rounds from the int32 product of the codes, with `multiplier = s_a * s_b / s_y`."""
        scale = self.output.scale
        ceiling = None if self.ceiling is None else self.ceiling / scale
        once = accumulator_rounding(self.left.scale * self.right.scale / scale, ceiling)
        if not (arithmetic.fixed_point or arithmetic.arm64):
            return once
        held = has_integers(self.left, self.right, self.output)
        return rounding_if(held, self._in_fixed_point(arithmetic.arm64), once)

    @in_wide_numbers
    def _in_fixed_point(self, arm64: bool) -> Rounding:
        """Two roundings as in TFLM, or a floor and one rounding as XNNPACK on arm64."""
        multiplier = self._multiplier(arm64)
        mantissa, shift = fixed_point_multiplier(ops, multiplier)
        rounded = rounded_after_floor if arm64 else rounded_twice
        ceiling = (
            None if self.ceiling is None else ops.floor(self.ceiling / self.output.scale + 0.5)
        )

        @in_wide_numbers
        def from_product(ratio: Tensor, grid: Grid) -> Tensor:
            product = ops.cast(ops.round(wide(ratio) / multiplier), "int64")
            steps = rounded(product, mantissa, shift)
            codes = round_to_codes(ops.cast(steps, "float32"), grid)
            return codes if ceiling is None else ops.minimum(codes, ceiling)

        return from_product

    def _multiplier(self, in_float32: bool) -> Tensor:
        """`s_a * s_b / s_y`, float64. XNNPACK computes it in float32."""
        scales = (self.left.scale, self.right.scale, self.output.scale)
        left, right, scale = scales if in_float32 else (wide(each) for each in scales)
        return wide(left * right / scale)
