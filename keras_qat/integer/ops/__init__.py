"""The integer ops, each a frozen dataclass, and the table of their names."""

from keras_qat.integer.ops.argmax import ArgMax
from keras_qat.integer.ops.arithmetic import Add, ArithmeticOp, Mul, Sub
from keras_qat.integer.ops.concatenate import Concatenate
from keras_qat.integer.ops.conv import Conv2D, DepthwiseConv2D
from keras_qat.integer.ops.dense import FullyConnected
from keras_qat.integer.ops.elementwise import Maximum, MaximumOfTwo, Minimum, MinimumOfTwo
from keras_qat.integer.ops.float_part import FloatPart, FloatResult, FloatWeight
from keras_qat.integer.ops.gather import Gather
from keras_qat.integer.ops.lookup import Lookup
from keras_qat.integer.ops.op import (
    Activation,
    BinaryOp,
    IntegerOp,
    LinearOp,
    Padding,
    QuantizedArray,
    Shape,
)
from keras_qat.integer.ops.pool import AveragePool2D, MaxPool2D, Mean
from keras_qat.integer.ops.prelu import PReLU
from keras_qat.integer.ops.resize import InterpolatePixels, RepeatPixels, UpsamplingOp
from keras_qat.integer.ops.shape import Crop, Pad, Reshape, Transpose
from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT, Softmax
from keras_qat.integer.ops.transpose_conv import TransposeConv2D

OPS: dict[str, type[IntegerOp]] = {
    "Add": Add,
    "ArgMax": ArgMax,
    "AveragePool2D": AveragePool2D,
    "Concatenate": Concatenate,
    "Conv2D": Conv2D,
    "Crop": Crop,
    "DepthwiseConv2D": DepthwiseConv2D,
    "FloatPart": FloatPart,
    "FloatResult": FloatResult,
    "FullyConnected": FullyConnected,
    "Gather": Gather,
    "InterpolatePixels": InterpolatePixels,
    "Lookup": Lookup,
    "MaxPool2D": MaxPool2D,
    "Maximum": Maximum,
    "MaximumOfTwo": MaximumOfTwo,
    "Mean": Mean,
    "Minimum": Minimum,
    "MinimumOfTwo": MinimumOfTwo,
    "Mul": Mul,
    "PReLU": PReLU,
    "Pad": Pad,
    "RepeatPixels": RepeatPixels,
    "Reshape": Reshape,
    "Softmax": Softmax,
    "Sub": Sub,
    "Transpose": Transpose,
    "TransposeConv2D": TransposeConv2D,
}
"""Every integer op by the name that a saved graph has for it."""

__all__ = [
    "OPS",
    "SOFTMAX_OUTPUT",
    "Activation",
    "Add",
    "ArgMax",
    "ArithmeticOp",
    "AveragePool2D",
    "BinaryOp",
    "Concatenate",
    "Conv2D",
    "Crop",
    "DepthwiseConv2D",
    "FloatPart",
    "FloatResult",
    "FloatWeight",
    "FullyConnected",
    "Gather",
    "IntegerOp",
    "InterpolatePixels",
    "LinearOp",
    "Lookup",
    "MaxPool2D",
    "Maximum",
    "MaximumOfTwo",
    "Mean",
    "Minimum",
    "MinimumOfTwo",
    "Mul",
    "PReLU",
    "Pad",
    "Padding",
    "QuantizedArray",
    "RepeatPixels",
    "Reshape",
    "Shape",
    "Softmax",
    "Sub",
    "Transpose",
    "TransposeConv2D",
    "UpsamplingOp",
]
