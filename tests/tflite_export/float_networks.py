"""Small float32 files and graphs with them, without a converter."""

import numpy as np

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tflite_export.file_model import FileModel, FileOperator, FileTensor
from tflite_export.writer import write_model

NONE = {"fusedActivationFunction": "NONE"}


def weighted_difference(factor: float, shape: tuple[int, ...]) -> np.ndarray:
    """The file of `factor * left - right`."""
    tensors = [
        *(FileTensor(name, shape, "float32") for name in ("left", "right", "product", "result")),
        FileTensor("factor", (1,), "float32", data=np.float32([factor])),
    ]
    operators = (
        FileOperator("MUL", 1, ("left", "factor"), ("product",), "MulOptions", NONE),
        FileOperator("SUB", 1, ("product", "right"), ("result",), "SubOptions", NONE),
    )
    file = FileModel(
        "float",
        {tensor.name: tensor for tensor in tensors},
        operators,
        {"left": "left", "right": "right"},
        {"result": "result"},
    )
    return np.frombuffer(write_model(file), np.uint8)


def difference_graph(
    factor: float,
    left: QuantParams,
    right: QuantParams,
    output: QuantParams,
    shape: tuple[int, ...] = (1, 3, 3, 2),
) -> IntegerGraph:
    """`factor * left - right` in float, then a max pooling in integers."""
    builder = GraphBuilder()
    names = builder.add_input("left", shape, left), builder.add_input("right", shape, right)
    file = weighted_difference(factor, shape)
    part = ops.FloatPart(names, "part", file, layers=("mine", "yours"), target_shape=shape[1:])
    x = builder.add(part, output)
    x = builder.add(ops.MaxPool2D((x,), "pool", (2, 2), (1, 1)), output)
    return builder.build((x,))
