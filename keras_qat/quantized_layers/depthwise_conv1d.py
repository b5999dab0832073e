"""DepthwiseConv1D with a quantized kernel."""

from __future__ import annotations

import keras

from keras_qat.quantized_layers.depthwise_conv2d import QuantizeDepthwiseConv2D


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeDepthwiseConv1D(QuantizeDepthwiseConv2D):
    """`y = depthwise_conv(x, w_hat) + b`; kernel (steps, in, multiplier)."""
