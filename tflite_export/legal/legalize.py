"""Passes from a learned graph to one that a target can hold. The real numbers stay the same."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_qat.integer import IntegerGraph, IntegerTensor, ops
from keras_qat.integer.headroom import map_linear_ops
from tflite_export.file.stored_graph import (
    Storages,
    StoredGraph,
    WeightStorage,
    convolution_of,
)
from tflite_export.legal.exact_means import with_exact_means
from tflite_export.legal.legality import check_legal
from tflite_export.legal.native_lookups import native_operators
from tflite_export.legal.processors import require_portable
from tflite_export.legal.storage import store, store_as
from tflite_export.ops.linear import takes_one_scale
from tflite_export.targets import Target


def legalize(
    graph: IntegerGraph,
    target: Target,
    weight_storage: Storages = "auto",
    portable: bool | None = None,
) -> StoredGraph:
    """The checked graph as the file will state it: scale vectors, headroom, storage, operators.

    Args:
        graph: the learned graph.
        target: the target of the file.
        weight_storage: see `tflite_export.export`. Here `"auto"` is the smallest file; the code
            that reads tables does not count. A dict gives each op with weights its own, by output.
        portable: see `tflite_export.export`.

    Raises:
        ExportError: the target cannot hold the graph; the message names the tensor.
    """
    vectorized = with_channel_scales(with_exact_means(graph, target, bool(portable)), target)
    check_legal(vectorized, target)
    if portable:
        require_portable(vectorized, target)
    storage: dict[str, WeightStorage] = {}

    def stored(op: ops.LinearOp, graph: IntegerGraph) -> ops.LinearOp:
        if isinstance(weight_storage, str):
            op, storage[op.output] = store(op, graph, weight_storage, target)
        else:
            own = weight_storage.get(op.output, "int8")
            op, storage[op.output] = store_as(op, graph, own, target)
        return op

    legal = map_linear_ops(vectorized, stored)
    for op in legal.ops if target.family == "tflm" else ():
        if isinstance(op, ops.FullyConnected) and storage[op.output] == "int4":
            legal = _dense_as_convolution(legal, op)
            storage[convolution_of(op.output)] = storage.pop(op.output)
    return StoredGraph(legal, storage, native_operators(legal, target))


def with_channel_scales(graph: IntegerGraph, target: Target) -> IntegerGraph:
    """Gives weights with one scale a vector of equal scales, where a kernel differs on a scalar."""

    def change(op: ops.LinearOp, graph: IntegerGraph) -> ops.LinearOp:
        return op if takes_one_scale(op, target) else _with_channel_scales(op)

    return map_linear_ops(graph, change)


def _with_channel_scales(op: ops.LinearOp) -> ops.LinearOp:
    grid = op.weight.qparams
    if grid.axis is not None:
        return op
    channels = op.weight.values.shape[op.channel_axis]
    vector = dataclasses.replace(grid, scale=np.full(channels, grid.scale), axis=op.channel_axis)
    return dataclasses.replace(op, weight=ops.QuantizedArray(op.weight.values, vector))


def _dense_as_convolution(graph: IntegerGraph, op: ops.FullyConnected) -> IntegerGraph:
    """Turns a Dense layer into a 1x1 convolution, which TFLM runs with per-channel INT4 weights.

    The image has one row.
    """
    (source,), (units, features) = op.inputs, op.weight.values.shape
    image, convolved = f"{op.output}/image", convolution_of(op.output)
    places = graph.tensors[op.output].shape[1:-1]
    columns = math.prod(places)
    grid = _with_channel_scales(op).weight.qparams
    weight = ops.QuantizedArray(op.weight.values.reshape(units, 1, 1, features), grid)
    convolution = ops.Conv2D(
        (image,), convolved, weight, op.bias, op.activation, weight_bits=op.weight_bits
    )
    between = [
        IntegerTensor(image, (1, 1, columns, features), graph.tensors[source].qparams),
        IntegerTensor(convolved, (1, 1, columns, units), graph.tensors[op.output].qparams),
    ]
    replacement = [
        ops.Reshape((source,), image, (1, columns, features)),
        convolution,
        ops.Reshape((convolved,), op.output, (*places, units)),
    ]
    return graph.with_op_replaced(op, replacement, between)
