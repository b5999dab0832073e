"""Conv2D with a quantized kernel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.integer.ops import Conv2D
from keras_qat.quantized_layers.window import QuantizeWindow


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeConv2D(QuantizeWindow):
    """`y = conv(x, w_hat) + b`; kernel (height, width, in / groups, out)."""

    integer_op = Conv2D

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.conv(
            x,
            kernel,
            strides=self.layer.strides,
            padding=self.layer.padding,
            dilation_rate=self.layer.dilation_rate,
            data_format="channels_last",
        )

    def image_codes(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return np.moveaxis(codes, -1, 0)
