"""What stands around a weight layer in the integer op that they become together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras import ops

from keras_qat.integer.qparams import INT8_MAX
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Grid

Tensor = Any
_SMALLEST = 1e-30


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """The layers whose scales decide the grid of a weight layer's int32 bias.

    They are found in the graph, never saved with the layer.

    Attributes:
        input_quantizer: puts the layer's input on its grid.
        batch_normalization: the BatchNormalization directly behind the layer, if there is one.
        output_quantizer: puts the result on its grid.
    """

    input_quantizer: Quantizer
    batch_normalization: Any | None
    output_quantizer: Quantizer

    def round_bias(self, bias: Tensor, weight_scale: Tensor, weight_grid: Grid) -> Tensor:
        """The layer's bias, moved so that the folded bias is a whole number of int32 steps.

        With `gain` and `offset` of the BatchNormalization in inference and the unit
        `u = s_x * s_w * |gain| / 2**k` of the accumulator, the folded bias `gain * bias + offset`
        becomes `u * round((gain * bias + offset) / u)`. `k` is the headroom of the stored weights
        (`headroom`) where the accumulator's unit is below half an output step, else 0.
        """
        gain, offset = self._gain_and_offset()
        unit = self.input_quantizer.scale * weight_scale * ops.abs(gain)
        fine = unit < 0.5 * self.output_quantizer.scale
        unit = ops.where(fine, unit * 2.0 ** -headroom(weight_grid), unit)
        alive = ops.abs(gain) * weight_scale > _SMALLEST
        unit, gain = ops.where(alive, unit, 1.0), ops.where(alive, gain, 1.0)
        rounded = ops.round((gain * bias + offset) / unit) * unit
        return ops.where(alive, (rounded - offset) / gain, bias)

    def _gain_and_offset(self) -> tuple[Tensor, Tensor]:
        layer = self.batch_normalization
        if layer is None:
            return ops.ones(()), ops.zeros(())
        gain = ops.rsqrt(as_tensor(layer.moving_variance) + layer.epsilon)
        if layer.scale:
            gain = gain * as_tensor(layer.gamma)
        offset = -as_tensor(layer.moving_mean) * gain
        if layer.center:
            offset = offset + as_tensor(layer.beta)
        return gain, offset


def headroom(grid: Grid) -> int:
    """How often every code of a weight grid can be doubled and still fit in int8.

    >>> [headroom(Grid.for_weights(bits)) for bits in (1, 2, 4, 8)]
    [6, 5, 3, 0]
    """
    return int(math.log2(INT8_MAX / max(-grid.qmin, grid.qmax)))
