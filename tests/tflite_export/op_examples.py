"""One small legal graph for every integer op, to hold laws of all of them."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.float_networks import difference_graph, result_graph
from tests.tflite_export.graphs import one_op_graph

GRID = QuantParams(np.float32(0.1))
IMAGE = (1, 4, 4, 2)


def _weight(shape: tuple[int, ...], axis: int) -> ops.QuantizedArray:
    values = (np.arange(np.prod(shape)) % 3 - 1).astype(np.int8).reshape(shape)
    scale = np.full(shape[axis], 2.0**-5, np.float32)
    return ops.QuantizedArray(values, QuantParams(scale, 0, -1, 1, axis))


def one_of(make, shape: tuple[int, ...] = IMAGE, y_grid: QuantParams | None = None):
    return one_op_graph(lambda _, x: make((x,), "y"), shape, GRID, y_grid)


def _of_two(make) -> IntegerGraph:
    builder = GraphBuilder()
    inputs = tuple(builder.add_input(name, IMAGE, GRID) for name in ("a", "b"))
    return builder.build((builder.add(make(inputs, "y"), GRID),))


def _linear(make, shape: tuple[int, ...], weight_shape: tuple[int, ...], axis: int = 0, **options):
    weight, bias = _weight(weight_shape, axis), np.ones(weight_shape[axis])
    return one_of(lambda x, y: make(x, y, weight, bias, weight_bits=2, **options), shape)


def _prelu(inputs: tuple[str, ...], output: str) -> ops.PReLU:
    slopes = QuantParams(np.array(2.0**-5, np.float32), 0, -127, 127)
    return ops.PReLU(inputs, output, ops.QuantizedArray(np.int8([[[3, 5]]]), slopes))


def _transposed(**options) -> IntegerGraph:
    return _linear(ops.TransposeConv2D, IMAGE, (3, 2, 2, 2), strides=(2, 2), **options)


_TABLE = np.arange(-128, 128)[::-1].astype(np.int8)

EXAMPLES: dict[type[ops.IntegerOp], IntegerGraph] = {
    ops.Add: _of_two(ops.Add),
    ops.ArgMax: one_of(lambda x, y: ops.ArgMax(x, y, 3)),
    ops.AveragePool2D: one_of(lambda x, y: ops.AveragePool2D(x, y, (2, 2), (2, 2))),
    ops.Concatenate: _of_two(lambda x, y: ops.Concatenate(x, y, 3)),
    ops.Conv2D: _linear(ops.Conv2D, IMAGE, (3, 2, 2, 2)),
    ops.Crop: one_of(lambda x, y: ops.Crop(x, y, ((1, 0), (0, 2)))),
    ops.DepthwiseConv2D: _linear(ops.DepthwiseConv2D, IMAGE, (1, 2, 2, 4), 3),
    ops.FloatPart: difference_graph(2.0, GRID, GRID, GRID),
    ops.FloatResult: result_graph(GRID, GRID),
    ops.FullyConnected: _linear(ops.FullyConnected, (1, 8), (5, 8)),
    ops.Gather: one_of(lambda x, y: ops.Gather(x, y, (3, 0, 0), 2)),
    ops.InterpolatePixels: one_of(lambda x, y: ops.InterpolatePixels(x, y, (2, 4))),
    ops.Lookup: one_of(lambda x, y: ops.Lookup(x, y, _TABLE)),
    ops.MaxPool2D: one_of(lambda x, y: ops.MaxPool2D(x, y, (2, 2), (2, 2))),
    ops.Maximum: one_of(lambda x, y: ops.Maximum(x, y, -128)),
    ops.MaximumOfTwo: _of_two(ops.MaximumOfTwo),
    ops.Mean: one_of(ops.Mean),
    ops.Minimum: one_of(lambda x, y: ops.Minimum(x, y, 127)),
    ops.MinimumOfTwo: _of_two(ops.MinimumOfTwo),
    ops.Mul: _of_two(ops.Mul),
    ops.PReLU: one_of(_prelu),
    ops.Pad: one_of(lambda x, y: ops.Pad(x, y, ((1, 1), (0, 2)))),
    ops.RepeatPixels: one_of(lambda x, y: ops.RepeatPixels(x, y, (2, 3))),
    ops.Reshape: one_of(lambda x, y: ops.Reshape(x, y, (32,))),
    ops.Softmax: one_of(ops.Softmax, (1, 10), ops.SOFTMAX_OUTPUT),
    ops.Sub: _of_two(ops.Sub),
    ops.Transpose: one_of(lambda x, y: ops.Transpose(x, y, (2, 1, 3))),
    ops.TransposeConv2D: _transposed(output_size=(8, 8)),
}
"""Integer op type -> a graph with it."""
