"""The integer ops, one frozen dataclass each, and the table that names them all."""

from keras_qat.integer.ops.conv import Conv2D, DepthwiseConv2D
from keras_qat.integer.ops.dense import FullyConnected
from keras_qat.integer.ops.elementwise import Add, Maximum, Minimum
from keras_qat.integer.ops.op import (
    Activation,
    IntegerOp,
    LinearOp,
    Padding,
    QuantizedArray,
    Shape,
)
from keras_qat.integer.ops.pool import AveragePool2D, MaxPool2D, Mean
from keras_qat.integer.ops.shape import Pad, Reshape
from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT, Softmax

OPS: dict[str, type[IntegerOp]] = {
    "Add": Add,
    "AveragePool2D": AveragePool2D,
    "Conv2D": Conv2D,
    "DepthwiseConv2D": DepthwiseConv2D,
    "FullyConnected": FullyConnected,
    "MaxPool2D": MaxPool2D,
    "Maximum": Maximum,
    "Mean": Mean,
    "Minimum": Minimum,
    "Pad": Pad,
    "Reshape": Reshape,
    "Softmax": Softmax,
}

__all__ = [
    "OPS",
    "SOFTMAX_OUTPUT",
    "Activation",
    "Add",
    "AveragePool2D",
    "Conv2D",
    "DepthwiseConv2D",
    "FullyConnected",
    "IntegerOp",
    "LinearOp",
    "MaxPool2D",
    "Maximum",
    "Mean",
    "Minimum",
    "Pad",
    "Padding",
    "QuantizedArray",
    "Reshape",
    "Shape",
    "Softmax",
]
