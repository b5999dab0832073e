"""DepthwiseConv2D with a quantized kernel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.integer.ops import DepthwiseConv2D
from keras_qat.lowering.pending import PendingLinear
from keras_qat.wrappers.quantize_wrapper import QuantizeWrapper


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeDepthwiseConv2D(QuantizeWrapper):
    """`y = depthwise_conv(x, w_hat) + b`; kernel (height, width, in, multiplier).

    Output channel `c * multiplier + m` has a scale of its own.
    """

    def channels_last_kernel(self) -> Any:
        height, width, channels, multiplier = self.layer.kernel.shape
        return ops.reshape(self.layer.kernel, (height, width, channels * multiplier))

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.depthwise_conv(
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
            op=DepthwiseConv2D,
            codes=self.weight_codes()[None],
            channel_axis=3,
            options={
                "strides": tuple(self.layer.strides),
                "padding": self.layer.padding,
                "dilation": tuple(self.layer.dilation_rate),
            },
            **self.learned(),
        )
