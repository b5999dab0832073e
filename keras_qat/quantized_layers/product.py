"""The product of two tensors in inference, rounded as the integer kernels round it."""

from __future__ import annotations

import dataclasses

from keras_qat.quantized_layers.accumulators import accumulator_rounding
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.quantizers.fake_quantize import Rounding


@dataclasses.dataclass(frozen=True)
class ProductAccumulator:
    """The quantizers of both factors and of the product; found in the graph, never saved.

    Attributes:
        left: puts the first factor on its grid.
        right: puts the second factor on its grid.
        output: puts the product on its grid.
        ceiling: where an activation between cuts values off, if it does.
    """

    left: PutsOnGrid
    right: PutsOnGrid
    output: ActivationQuantizer
    ceiling: float | None = None

    def rounding(self) -> Rounding:
        """Rounds from the int32 product of the codes, with `multiplier = s_a * s_b / s_y`."""
        scale = self.output.scale
        ceiling = None if self.ceiling is None else self.ceiling / scale
        return accumulator_rounding(self.left.scale * self.right.scale / scale, ceiling)
