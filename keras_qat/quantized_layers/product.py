"""The product of two tensors in inference, rounded as in integer kernels."""

from __future__ import annotations

import dataclasses

from keras_qat.quantized_layers.accumulators import accumulator_rounding
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.quantizers.fake_quantize import Rounding


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

    def rounding(self) -> Rounding:
        """Rounds from the int32 product of the codes, with `multiplier = s_a * s_b / s_y`."""
        scale = self.output.scale
        ceiling = None if self.ceiling is None else self.ceiling / scale
        return accumulator_rounding(self.left.scale * self.right.scale / scale, ceiling)
