"""PReLU with several slopes, rounded in inference as in LiteRT."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.arithmetic import DEFAULT, Arithmetic
from keras_qat.integer.op_numbers import fixed_point_multiplier
from keras_qat.keras_fixed_point import rounded_twice
from keras_qat.lowering.pending import Pending
from keras_qat.lowering.prelu import PendingPReLU
from keras_qat.quantized_layers.quantize_wrapper import QuantizeWrapper
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid, SlopeQuantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.int8_grids import has_integers
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers, wide


@dataclasses.dataclass(frozen=True)
class PReLUGrids:
    """The quantizers before and behind a PReLU. They are found in the graph, never saved."""

    input_quantizer: PutsOnGrid
    output_quantizer: ActivationQuantizer

    @in_wide_numbers
    def integer_prelu(
        self, x: Tensor, slopes: Tensor, slope_scale: Tensor, arithmetic: Arithmetic = DEFAULT
    ) -> Tensor:
        """The PReLU of `x` and `slopes` on their grids, as the kernel of a target rounds it.

        Both kernels round twice. Where the output has a larger scale than the input, up to a
        quarter of all results differ from a single rounding. LiteRT computes its multipliers in
        float32, TFLite Micro in float64.
        """
        source, output = self.input_quantizer.scale, self.output_quantizer.scale
        codes, slope_codes = (
            ops.cast(ops.round(ops.cast(values, "float32") / unit), "int64")
            for values, unit in ((x, source), (slopes, slope_scale))
        )
        exact = arithmetic.fixed_point and has_integers(self.input_quantizer, self.output_quantizer)

        def rescaled(products: Tensor, *scales: Tensor) -> Tensor:
            in_float32 = wide(math.prod(scales) / output)
            multiplier = math.prod(map(wide, scales)) / wide(output)
            multiplier = ops.where(exact, multiplier, in_float32)
            return rounded_twice(products, *fixed_point_multiplier(ops, multiplier))

        above, below = rescaled(codes, source), rescaled(codes * slope_codes, source, slope_scale)
        return ops.cast(ops.where(codes >= 0, above, below), "float32") * output


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizePReLU(QuantizeWrapper):
    """`PReLU` with a slope for each channel or element, on a grid of 8 bits.

    Forward: `y = max(x, 0) + a_hat * min(x, 0)`. In inference between known grids, `y` is rounded
    as in the target's kernel. A PReLU with a single slope becomes a `QuantizeSharedPReLU`.
    """

    @classmethod
    def of(cls, layer: Any) -> QuantizePReLU:
        """A copy of a PReLU, with a quantizer for its slopes."""
        copy = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
        return cls(copy, SlopeQuantizer(name="slope_quantizer"))

    def call(self, x: Tensor, source: int = 0, training: bool = False) -> Tensor:
        x = ops.cast(x, "float32")
        slopes = self.weight_quantizer(self.channels_last_kernel())
        if not training and source in self.connections:
            scale, told = self.weight_quantizer.scale, self.connections[source]
            return told.integer_prelu(x, slopes, scale, self.arithmetic)
        return ops.relu(x) - slopes * ops.relu(-x)

    def computes_on_target(self) -> bool:
        return True

    def bias(self) -> None:
        return None

    def channels_last_kernel(self) -> Tensor:
        return as_tensor(self.layer.alpha)

    def lower(self, tensor: str, source: int = 0) -> Pending:
        codes = self.weight_codes().astype(np.int8)
        scale = np.asarray(ops.convert_to_numpy(self.weight_quantizer.scale), np.float32)
        return PendingPReLU((tensor,), codes=codes, scale=scale)
