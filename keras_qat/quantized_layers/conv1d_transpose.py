"""Conv1DTranspose with a quantized kernel."""

from __future__ import annotations

import keras

from keras_qat.quantized_layers.conv2d_transpose import QuantizeConv2DTranspose


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeConv1DTranspose(QuantizeConv2DTranspose):
    """`y = conv_transpose(x, w_hat) + b`; kernel (steps, out, in)."""
