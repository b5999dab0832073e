"""Add and Subtract that sum integers in inference."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_qat.arithmetic import Arithmetic, RoundsAsTarget
from keras_qat.integer.op_numbers import fixed_point_multiplier
from keras_qat.keras_fixed_point import rounded_twice
from keras_qat.quantized_layers.floor_log2 import floor_log2
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.quantizers.int8_grids import chosen, has_integers
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers, wide

_MULTIPLIER_BITS = 20
_LARGEST_CODE = 255.0
_LEVELS = 256


@dataclasses.dataclass(frozen=True)
class SumGrids:
    """The quantizers of both terms and of the sum. They are found in the graph, never saved."""

    left: PutsOnGrid
    right: PutsOnGrid
    output: ActivationQuantizer

    def sum(self, left: Tensor, right: Tensor, sign: int, arithmetic: Arithmetic) -> Tensor:
        """`left + sign * right` as the kernel of a target rounds it."""
        if not arithmetic.fixed_point:
            return ops.where(
                self._fits_int32(), self.integer_sum(left, right, sign), ops.add(left, sign * right)
            )
        return chosen(
            has_integers(self.left, self.right, self.output),
            lambda: self.fixed_point_sum(left, right, sign),
            lambda: ops.add(left, sign * right),
        )

    def fixed_point_sum(self, left: Tensor, right: Tensor, sign: int) -> Tensor:
        """The sum with the rounding of TFLite Micro, looked up in a table of all pairs of codes."""
        low = [ops.cast(each.forward_grid().qmin, "float32") for each in (self.left, self.right)]
        rows = ops.round(ops.cast(left, "float32") / self.left.scale)
        columns = ops.round(ops.cast(right, "float32") / self.right.scale)
        place = rows * float(_LEVELS) + columns - (low[0] * float(_LEVELS) + low[1])
        codes = np.arange(_LEVELS, dtype=np.float32)
        sums = self._every_sum(codes[:, None] + low[0], codes[None] + low[1], sign)
        return ops.take(ops.reshape(sums, (-1,)), ops.cast(place, "int32"))

    @in_wide_numbers
    def _every_sum(self, left: Tensor, right: Tensor, sign: int) -> Tensor:
        """Sums of codes, in real numbers.

        Both terms are rescaled to a common grid, `2**20` times finer than twice the larger scale,
        and their sum to the output.
        """
        scales = [wide(each.scale) for each in (self.left, self.right)]
        common = 2.0 * ops.maximum(*scales)
        total: Any = 0
        for codes, scale in ((left, scales[0]), (sign * right, scales[1])):
            raised = ops.cast(codes, "int64") * (1 << _MULTIPLIER_BITS)
            total += rounded_twice(raised, *fixed_point_multiplier(ops, scale / common))
        output_scale = wide(self.output.scale)
        multiplier = common / (float(1 << _MULTIPLIER_BITS) * output_scale)
        steps = rounded_twice(total, *fixed_point_multiplier(ops, multiplier))
        return ops.cast(steps, "float32") * self.output.scale

    def integer_sum(self, left: Tensor, right: Tensor, sign: int) -> Tensor:
        """`left + sign * right` with the rounding of XNNPACK.

        The sum is `s_y * round((m_l * q_l + m_r * q_r) / 2**n)`, in int32, ties up, with the
        multipliers `m = round(2**n * s / s_y)`, where `n` gives the larger multiplier 21 bits.
        """
        output_scale = self.output.scale
        left_ratio, right_ratio = self.left.scale / output_scale, self.right.scale / output_scale
        shift = _MULTIPLIER_BITS - floor_log2(ops.maximum(left_ratio, right_ratio))
        raised = ops.power(2.0, shift)
        total = _codes(left, self.left) * ops.cast(ops.round(left_ratio * raised), "int32")
        total = total + _codes(right, self.right) * ops.cast(
            sign * ops.round(right_ratio * raised), "int32"
        )
        bits = ops.cast(ops.clip(shift, 1, 30), "int32")
        half = ops.left_shift(ops.ones_like(bits), bits - 1)
        steps = ops.right_shift(total + half, ops.broadcast_to(bits, ops.shape(total)))
        return ops.cast(steps, "float32") * output_scale

    def _fits_int32(self) -> Tensor:
        """Whether int32 holds the sum. Learned grids that are still wider than int8 overflow it."""
        grids = (self.left.forward_grid(), self.right.forward_grid())
        ends = [end for grid in grids for end in (-grid.qmin, grid.qmax)]
        return ops.all(ops.stack([ops.cast(end, "float32") for end in ends]) <= _LARGEST_CODE)


class _IntegerSum(RoundsAsTarget):
    """Base of QuantizeAdd and QuantizeSubtract: in inference between known grids, sums integers."""

    sign: ClassVar[int]

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.connections: dict[int, SumGrids] = {}

    def call(self, inputs: list[Tensor], training: bool = False) -> Tensor:
        if training or 0 not in self.connections:
            return super().call(inputs)
        left, right = inputs
        total = self.connections[0].sum(left, right, self.sign, self.arithmetic)
        return ops.cast(total, self.compute_dtype)

    def compute_output_spec(self, inputs: list[Tensor], training: bool = False) -> Any:
        return super().compute_output_spec(inputs)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeAdd(_IntegerSum, keras.layers.Add):
    """`y = a + b`. In inference between known grids: the integer sum of the runtimes."""

    sign = 1


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeSubtract(_IntegerSum, keras.layers.Subtract):
    """`y = a - b`. In inference between known grids: the integer difference of the runtimes."""

    sign = -1


def _codes(x: Tensor, quantizer: PutsOnGrid) -> Tensor:
    """The codes of values that are on the grid of a quantizer."""
    return ops.cast(ops.round(ops.cast(x, "float32") / quantizer.scale), "int32")
