"""Requirements on the grids of an op's tensors, so that no clamp is lost in the file."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, QuantParams, ops
from keras_qat.integer.ops.op import activation_range, six_in_steps
from keras_qat.integer.qparams import INT8_MAX
from tflite_export.errors import ExportError
from tflite_export.targets import Target


def check_same_grid(op: ops.IntegerOp, graph: IntegerGraph, target: Target) -> None:
    """The legality check of an op whose output has the grid of its input."""
    x = require_same_scale(op, graph)
    require_range(op, graph, (x.qmin, x.qmax))


def require_activation(op: ops.LinearOp | ops.ArithmeticOp, graph: IntegerGraph) -> None:
    """Requires that the grid ends at the fused clamp, and that all runtimes clamp alike."""
    grid = graph.tensors[op.output].qparams
    low, high = activation_range(op.activation, grid)
    if op.activation == "relu6":
        six = six_in_steps(grid)
        if high != min(INT8_MAX, int(np.rint(six + np.float32(grid.zero_point)))):
            raise ExportError(
                f"The fused relu6 of {op.output!r} ends half way between two integers, where "
                "runtimes round differently. Change the scale a little. "
                f"Received: 6 / scale = {float(six):g}"
            )
    require_range(op, graph, (low, high))


def require_same_scale(
    op: ops.IntegerOp, graph: IntegerGraph, name: str | None = None
) -> QuantParams:
    """Returns the grid of an input, by default the first. It must have the output's scale."""
    x, y = graph.tensors[name or op.inputs[0]].qparams, graph.tensors[op.output].qparams
    if x.zero_point != y.zero_point or not np.array_equal(x.scale, y.scale):
        raise ExportError(
            f"{type(op).__name__} {op.output!r} keeps the scale and zero point of its input, so "
            f"both must be equal. Received: input {x}, output {y}"
        )
    return x


def require_range(op: ops.IntegerOp, graph: IntegerGraph, implied: tuple[int, int]) -> None:
    """Requires an output grid of exactly the integers that the op can yield."""
    grid = graph.tensors[op.output].qparams
    if (grid.qmin, grid.qmax) != implied:
        raise ExportError(
            f"{type(op).__name__} {op.output!r} yields integers {implied[0]}..{implied[1]}, but "
            f"the grid of its output is {grid.qmin}..{grid.qmax}: a clamp would be lost. Place the "
            "grid at the top of int8 (QuantParams.placed_in_int8), fuse a ReLU or add a Maximum."
        )
