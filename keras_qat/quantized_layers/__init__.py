"""Layers of a quantized model: weight layers with quantized kernels, exact sums and functions."""

from keras_qat.quantized_layers.add import QuantizeAdd, QuantizeSubtract
from keras_qat.quantized_layers.affine import (
    QuantizeBatchNormalization,
    QuantizeRescaling,
)
from keras_qat.quantized_layers.argmax import ArgMax
from keras_qat.quantized_layers.conv1d import QuantizeConv1D
from keras_qat.quantized_layers.conv1d_transpose import QuantizeConv1DTranspose
from keras_qat.quantized_layers.conv2d import QuantizeConv2D
from keras_qat.quantized_layers.conv2d_transpose import QuantizeConv2DTranspose
from keras_qat.quantized_layers.dense import QuantizeDense
from keras_qat.quantized_layers.depthwise_conv1d import QuantizeDepthwiseConv1D
from keras_qat.quantized_layers.depthwise_conv2d import QuantizeDepthwiseConv2D
from keras_qat.quantized_layers.function import Function, QuantizeFunction
from keras_qat.quantized_layers.learned_rescaling import LearnedRescaling
from keras_qat.quantized_layers.living import LivingBranch, LivingIdentity, LivingLayer
from keras_qat.quantized_layers.mean import (
    QuantizeGlobalAveragePooling1D,
    QuantizeGlobalAveragePooling2D,
)
from keras_qat.quantized_layers.moves import CastTo, StopGradient, Take
from keras_qat.quantized_layers.pointwise import (
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
from keras_qat.quantized_layers.prelu import QuantizePReLU
from keras_qat.quantized_layers.quantize_wrapper import QuantizeWrapper
from keras_qat.quantized_layers.quantized_kernels import (
    QuantizedKernel,
    quantized_kernels,
)
from keras_qat.quantized_layers.weight_only import (
    QuantizeEinsumDense,
    QuantizeEmbedding,
    QuantizeMultiHeadAttention,
    WeightOnlyWrapper,
)

__all__ = [
    "ArgMax",
    "CastTo",
    "Function",
    "LearnedRescaling",
    "LivingBranch",
    "LivingIdentity",
    "LivingLayer",
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
    "QuantizeFunction",
    "QuantizeGlobalAveragePooling1D",
    "QuantizeGlobalAveragePooling2D",
    "QuantizeLeakyReLU",
    "QuantizeMultiHeadAttention",
    "QuantizePReLU",
    "QuantizeReLU",
    "QuantizeRescaling",
    "QuantizeSharedPReLU",
    "QuantizeSubtract",
    "QuantizeWrapper",
    "QuantizedKernel",
    "StopGradient",
    "Take",
    "WeightOnlyWrapper",
    "absolute",
    "approximate_gelu",
    "quantized_kernels",
    "square",
]
