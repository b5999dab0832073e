"""Small float32 files and graphs with them, without a converter."""

import dataclasses

import numpy as np

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from keras_qat.integer.graph import NO_GRID
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.writer import write_model

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


def table_and_kernel() -> np.ndarray:
    """The file of `table[x] @ kernel`, with both as inputs, and one that nothing reads."""
    tensors = [
        FileTensor("x", (1, 3), "int32"),
        FileTensor("table", (5, 4), "float32"),
        FileTensor("kernel", (4, 6), "float32"),
        FileTensor("unread", (2, 2), "float32"),
        FileTensor("rows", (1, 3, 4), "float32"),
        FileTensor("result", (1, 3, 6), "float32"),
    ]
    operators = (
        FileOperator("GATHER", 1, ("table", "x"), ("rows",), "GatherOptions", {"axis": 0}),
        FileOperator("BATCH_MATMUL", 1, ("rows", "kernel"), ("result",), "BatchMatMulOptions"),
    )
    names = ("x", "table", "kernel", "unread")
    file = FileModel(
        "float",
        {tensor.name: tensor for tensor in tensors},
        operators,
        {name: name for name in names},
        {"result": "result"},
    )
    return np.frombuffer(write_model(file), np.uint8)


def random_weight(name: str, shape: tuple[int, ...], bits: int, per_channel: bool, seed: int = 0):
    """Codes of that many bits, scales over three decades."""
    rng = np.random.default_rng(seed)
    largest = max(1, 2 ** (bits - 1) - 1)
    codes = rng.integers(-largest, largest + 1, shape).astype(np.int8)
    scale = np.float32(10.0 ** rng.uniform(-3, 0, shape[-1:] if per_channel else ()))
    grid = QuantParams(scale, axis=len(shape) - 1 if per_channel else None)
    return ops.FloatWeight(name, ops.QuantizedArray(codes, grid), bits)


def weighted_graph(bits: int = 4, per_channel: bool = True, seed: int = 0) -> IntegerGraph:
    """Rows of a quantized table, times a quantized kernel, in float."""
    shapes = {"table": (5, 4), "kernel": (4, 6), "unread": (2, 2)}
    weights = [
        random_weight(name, shape, bits, per_channel, seed + index)
        for index, (name, shape) in enumerate(shapes.items())
    ]
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 3), QuantParams(np.float32(1)), "int32")
    part = ops.FloatPart((x,), "part", table_and_kernel(), ("mine",), (3, 6), tuple(weights))
    products = weights[0].dequantized() @ weights[1].dequantized()
    step = np.float32(max(float(np.abs(products).max()) / 127, 1e-6))
    return builder.build((builder.add(part, QuantParams(step)),))


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


def result_graph(
    left: QuantParams, right: QuantParams, shape: tuple[int, ...] = (1, 3, 3, 2)
) -> IntegerGraph:
    """`2 * left - right`, an output in float32."""
    builder = GraphBuilder()
    names = builder.add_input("left", shape, left), builder.add_input("right", shape, right)
    file = weighted_difference(2.0, shape)
    part = ops.FloatResult(names, "part", file, layers=("mine", "yours"), target_shape=shape[1:])
    builder.add(part, NO_GRID)
    return builder.build(("part",))


def times_one(file, names):
    """The file with these tensors, multiplied by one, as its outputs.

    XNNPACK dequantizes constants as it starts; where such a tensor is itself an output, it is
    never written.
    """
    one = FileTensor("one", (1,), "float32", data=np.float32([1]))
    seen = {name: dataclasses.replace(file.tensors[name], name=f"{name}/seen") for name in names}
    options = {"fusedActivationFunction": "NONE"}
    products = [
        FileOperator("MUL", 1, (name, "one"), (tensor.name,), "MulOptions", options)
        for name, tensor in seen.items()
    ]
    tensors = {tensor.name: tensor for tensor in (one, *seen.values())}
    return dataclasses.replace(
        file,
        tensors={**file.tensors, **tensors},
        operators=(*file.operators, *products),
        outputs={tensor.name: tensor.name for tensor in seen.values()},
    )
