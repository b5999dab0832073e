"""Passes from a learned graph to one that a target can hold: the real network stays the same."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.headroom import add_headroom, map_linear_ops
from tflite_export.legality import check_legal
from tflite_export.targets import Target


def legalize(graph: IntegerGraph, target: Target) -> IntegerGraph:
    """The graph as the file will state it: scale vectors and headroom, checked for the target.

    Raises:
        ExportError: something the target cannot hold; the message names the tensor.
    """
    vectorized = with_channel_scales(graph)
    check_legal(vectorized, target)
    return add_headroom(vectorized)


def with_channel_scales(graph: IntegerGraph) -> IntegerGraph:
    """Weights on a per-tensor grid get a vector of equal scales: kernels differ on a scalar."""
    return map_linear_ops(graph, _with_channel_scales)


def _with_channel_scales(op: ops.LinearOp, graph: IntegerGraph) -> ops.LinearOp:
    grid = op.weight.qparams
    if grid.axis is not None:
        return op
    channels = op.weight.values.shape[op.channel_axis]
    vector = dataclasses.replace(grid, scale=np.full(channels, grid.scale), axis=op.channel_axis)
    return dataclasses.replace(op, weight=ops.QuantizedArray(op.weight.values, vector))
