"""Layers of a quantized model: weight layers with a given kernel, exact sums and functions."""

from keras_qat.wrappers.add import QuantizeAdd, QuantizeSubtract
from keras_qat.wrappers.affine import (
    QuantizeBatchNormalization,
    QuantizeRescaling,
)
from keras_qat.wrappers.conv1d import QuantizeConv1D
from keras_qat.wrappers.conv1d_transpose import QuantizeConv1DTranspose
from keras_qat.wrappers.conv2d import QuantizeConv2D
from keras_qat.wrappers.conv2d_transpose import QuantizeConv2DTranspose
from keras_qat.wrappers.dense import QuantizeDense
from keras_qat.wrappers.depthwise_conv1d import QuantizeDepthwiseConv1D
from keras_qat.wrappers.depthwise_conv2d import QuantizeDepthwiseConv2D
from keras_qat.wrappers.in_float import (
    QuantizeEinsumDense,
    QuantizeEmbedding,
    QuantizeInFloat,
    QuantizeMultiHeadAttention,
)
from keras_qat.wrappers.pointwise import (
    Pointwise,
    QuantizeActivation,
    QuantizeELU,
    QuantizeLeakyReLU,
    QuantizeReLU,
    QuantizeSharedPReLU,
    absolute,
    approximate_gelu,
    square,
)
from keras_qat.wrappers.prelu import QuantizePReLU
from keras_qat.wrappers.quantize_wrapper import QuantizeWrapper
from keras_qat.wrappers.quantized_kernels import (
    QuantizedKernel,
    code_regularization,
    quantized_kernels,
)

__all__ = [
    "Pointwise",
    "QuantizeActivation",
    "QuantizeAdd",
    "QuantizeBatchNormalization",
    "QuantizeConv1D",
    "QuantizeConv1DTranspose",
    "QuantizeConv2D",
    "QuantizeConv2DTranspose",
    "QuantizeDense",
    "QuantizeDepthwiseConv1D",
    "QuantizeDepthwiseConv2D",
    "QuantizeELU",
    "QuantizeEinsumDense",
    "QuantizeEmbedding",
    "QuantizeInFloat",
    "QuantizeLeakyReLU",
    "QuantizeMultiHeadAttention",
    "QuantizePReLU",
    "QuantizeReLU",
    "QuantizeRescaling",
    "QuantizeSharedPReLU",
    "QuantizeSubtract",
    "QuantizeWrapper",
    "QuantizedKernel",
    "absolute",
    "approximate_gelu",
    "code_regularization",
    "quantized_kernels",
    "square",
]
