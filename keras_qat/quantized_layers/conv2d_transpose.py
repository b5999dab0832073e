"""Conv2DTranspose with a quantized kernel."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.integer import GraphBuilder, QuantParams
from keras_qat.integer.ops import IntegerOp, TransposeConv2D
from keras_qat.integer.ops.window import Window
from keras_qat.lowering.image import over_image
from keras_qat.lowering.pending import PendingLinear
from keras_qat.quantized_layers.window import QuantizeWindow


@dataclasses.dataclass(frozen=True, eq=False)
class PendingTransposeConv(PendingLinear):
    """A transposed convolution. The Keras layer computes the size of its output.

    Attributes:
        layer: the Keras layer.
    """

    layer: Any = dataclasses.field(kw_only=True)

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> IntegerOp:
        shape = builder.tensor(self.sources[0]).shape
        places = shape[-1 - len(self.layer.kernel_size) :]
        size = over_image(self.layer.compute_output_shape((1, *places))[1:-1])
        window = Window(self.codes.shape[1:3], self.options["strides"], "same")
        # Without any padding "valid" computes the same, and XNNPACK runs it for every window.
        padding = self.options["padding"] if any(map(any, window.pads(size))) else "valid"
        options = {**self.options, "padding": padding, "output_size": size}
        sized = dataclasses.replace(self, options=options)
        return PendingLinear.finalize(sized, builder, name, output)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeConv2DTranspose(QuantizeWindow):
    """`y = conv_transpose(x, w_hat) + b`; kernel (height, width, out, in)."""

    integer_op = TransposeConv2D

    def channels_last_kernel(self) -> Any:
        return ops.swapaxes(self.layer.kernel, -1, -2)

    def in_own_layout(self, kernel: Any) -> Any:
        return ops.swapaxes(kernel, -1, -2)

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.conv_transpose(
            x,
            kernel,
            strides=self.layer.strides,
            padding=self.layer.padding,
            output_padding=self.layer.output_padding,
            dilation_rate=self.layer.dilation_rate,
            data_format="channels_last",
        )

    def image_codes(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return np.moveaxis(codes, -1, 0)

    def options(self) -> dict[str, Any]:
        return {"strides": over_image(self.layer.strides), "padding": self.layer.padding}

    def pending(self, **fields: Any) -> PendingLinear:
        return PendingTransposeConv(**fields, layer=self.layer)
