"""One wrapper per weight layer: its forward pass with a given kernel, and the same in integers."""

from keras_qat.wrappers.add import QuantizeAdd, QuantizeSubtract
from keras_qat.wrappers.conv2d import QuantizeConv2D
from keras_qat.wrappers.dense import QuantizeDense
from keras_qat.wrappers.depthwise_conv2d import QuantizeDepthwiseConv2D
from keras_qat.wrappers.quantize_wrapper import QuantizeWrapper

__all__ = [
    "QuantizeAdd",
    "QuantizeConv2D",
    "QuantizeDense",
    "QuantizeDepthwiseConv2D",
    "QuantizeSubtract",
    "QuantizeWrapper",
]
