"""Layers of a quantized model: weight layers with a given kernel, exact sums and functions."""

from keras_qat.wrappers.add import QuantizeAdd
from keras_qat.wrappers.conv2d import QuantizeConv2D
from keras_qat.wrappers.dense import QuantizeDense
from keras_qat.wrappers.depthwise_conv2d import QuantizeDepthwiseConv2D
from keras_qat.wrappers.pointwise import (
    Pointwise,
    QuantizeActivation,
    QuantizeELU,
    QuantizeLeakyReLU,
    QuantizePReLU,
    QuantizeReLU,
    approximate_gelu,
)
from keras_qat.wrappers.quantize_wrapper import QuantizeWrapper

__all__ = [
    "Pointwise",
    "QuantizeActivation",
    "QuantizeAdd",
    "QuantizeConv2D",
    "QuantizeDense",
    "QuantizeDepthwiseConv2D",
    "QuantizeELU",
    "QuantizeLeakyReLU",
    "QuantizePReLU",
    "QuantizeReLU",
    "QuantizeWrapper",
    "approximate_gelu",
]
