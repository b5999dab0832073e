"""DepthwiseConv2D with a quantized kernel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.integer.ops import DepthwiseConv2D
from keras_qat.quantized_layers.window import QuantizeWindow


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeDepthwiseConv2D(QuantizeWindow):
    """`y = depthwise_conv(x, w_hat) + b`; kernel (height, width, in, multiplier).

    Every output channel `c * multiplier + m` has its own scale.
    """

    integer_op = DepthwiseConv2D

    def channels_last_kernel(self) -> Any:
        *window, channels, multiplier = self.layer.kernel.shape
        return ops.reshape(self.layer.kernel, (*window, channels * multiplier))

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.depthwise_conv(
            x,
            kernel,
            strides=self.layer.strides,
            padding=self.layer.padding,
            dilation_rate=self.layer.dilation_rate,
            data_format="channels_last",
        )

    def image_codes(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return codes[None]
