"""Conv2D with a quantized kernel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.integer.ops import Conv2D
from keras_qat.lowering.pending import PendingLinear
from keras_qat.wrappers.quantize_wrapper import QuantizeWrapper


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeConv2D(QuantizeWrapper):
    """`y = conv(x, w_hat) + b`; kernel (height, width, in, out)."""

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.conv(
            x,
            kernel,
            strides=self.layer.strides,
            padding=self.layer.padding,
            dilation_rate=self.layer.dilation_rate,
            data_format="channels_last",
        )

    def lower(self, source: str) -> PendingLinear:
        return PendingLinear(
            (source,),
            op=Conv2D,
            codes=np.moveaxis(self.weight_codes(), -1, 0),
            channel_axis=0,
            options={
                "strides": tuple(self.layer.strides),
                "padding": self.layer.padding,
                "dilation": tuple(self.layer.dilation_rate),
            },
            **self.learned(),
        )
