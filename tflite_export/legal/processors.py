"""The operators whose last bit depends on the processor, and files that have none of them."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, QuantParams, ops
from keras_qat.integer.fixed_point import RoundingProfile, get_profile
from keras_qat.integer.ops.pool import rounded_mean
from keras_qat.integer.qparams import IntArray
from tflite_export.errors import ExportError
from tflite_export.targets import Target

_MOST_ROWS = 1 << 18
"""With more rows of codes than this, nobody tries all inputs of a softmax."""
_CHUNK = 1 << 20

PROCESSOR_OPERATORS: dict[type[ops.IntegerOp], str] = {
    ops.Mul: "MUL",
    ops.Mean: "MEAN",
    ops.Softmax: "SOFTMAX",
}
"""The operators whose kernels are not the same on every processor."""


def require_portable(graph: IntegerGraph, target: Target) -> None:
    """Raises an `ExportError` if a result depends on the processor; the message names the op."""
    for other in (each for each in target.processors if each != target.default_profile):
        for op in candidates(graph):
            possible, inputs = possible_differences(op, graph, target, other)
            if possible == 0:
                continue
            share = f"for {possible:,} of {inputs:,} inputs" if inputs else "for some inputs"
            raise ExportError(
                f"portable=True: {PROCESSOR_OPERATORS[type(op)]} {op.output!r} computes another "
                f"last bit as {other!r} than as {target.default_profile!r}, {share}. "
                f"{_ways_out(op, graph)}"
            )
    parts = [op for op in graph.ops if isinstance(op, ops.FloatPart)]
    if parts and target.processors:
        layers = ", ".join(repr(layer) for op in parts for layer in op.layers)
        raise ExportError(
            f"portable=True: the layers {layers} compute in float32, whose last bit depends on the "
            "processor. Leave portable out, or quantize these layers."
        )


def _ways_out(op: ops.IntegerOp, graph: IntegerGraph) -> str:
    others = (
        "Without portable the report counts what differs, and compute_as('xnnpack-arm64') "
        "evaluates what phones compute."
    )
    behind_ops = op.inputs[0] not in graph.inputs
    if isinstance(op, ops.Softmax) and op.output in graph.outputs and behind_ops:
        return f"Export the scores before it: outputs=[{op.inputs[0]!r}]. {others}"
    return others


def depends_on_processor(op: ops.IntegerOp, graph: IntegerGraph, target: Target) -> bool:
    """Whether processors of the target yield different codes for some input, as far as is known."""
    found = (possible_differences(op, graph, target, each) for each in target.processors)
    return any(possible != 0 for possible, _ in found)


def candidates(graph: IntegerGraph) -> list[ops.IntegerOp]:
    """The ops that become such operators."""
    return [op for op in graph.ops if type(op) in PROCESSOR_OPERATORS]


def possible_differences(
    op: ops.IntegerOp, graph: IntegerGraph, target: Target, other: str
) -> tuple[int | None, int | None]:
    """How many inputs of an op give another result, of how many; `None` for too many to try."""
    grids = [graph.tensors[name].qparams for name in op.inputs]
    output = graph.tensors[op.output].qparams
    both = get_profile(target.default_profile), get_profile(other)
    if isinstance(op, ops.Mean):
        _, height, width, _ = graph.tensors[op.inputs[0]].shape
        return _differing_sums(height * width, grids[0], output, *both)
    if isinstance(op, ops.Mul):
        codes = [np.arange(grid.qmin, grid.qmax + 1, dtype=np.int8) for grid in grids]
        twice = op.inputs[0] == op.inputs[1]
        pairs = (codes[0], codes[0]) if twice else (codes[0][:, None], codes[1])
        operands = [ops.QuantizedArray(*each) for each in zip(pairs, grids, strict=True)]
    else:
        rows = _rows(graph.tensors[op.inputs[0]].shape[-1], grids[0])
        if rows is None:
            return None, None
        operands = [ops.QuantizedArray(rows, grids[0])]
    one, two = (op.evaluate(operands, output, each) for each in both)
    apart = one != two
    apart = apart.any(axis=-1) if isinstance(op, ops.Softmax) else apart
    return int(np.count_nonzero(apart)), apart.size


def _rows(classes: int, grid: QuantParams) -> IntArray | None:
    """Every row of codes that a softmax tells apart: at least one code is the largest of the grid.

    >>> _rows(2, QuantParams(np.float32(1), 0, 0, 2)).tolist()
    [[2, 2], [2, 1], [2, 0], [1, 2], [0, 2]]
    """
    levels = grid.qmax - grid.qmin + 1
    if levels**classes - (levels - 1) ** classes > _MOST_ROWS:
        return None
    parts = []
    for first in range(classes):
        places = [range(1, levels)] * first + [range(1)] + [range(levels)] * (classes - first - 1)
        axes = np.meshgrid(*map(np.asarray, places), indexing="ij")
        parts.append(np.stack(axes, axis=-1).reshape(-1, classes))
    return np.asarray(grid.qmax - np.concatenate(parts), dtype=np.int8)


def _differing_sums(
    count: int,
    x: QuantParams,
    output: QuantParams,
    one: RoundingProfile,
    two: RoundingProfile,
) -> tuple[int, int]:
    """How many sums of an image are rounded otherwise, of how many."""
    differing = 0
    sums = range(count * x.qmin, count * x.qmax + 1)
    for start in range(sums.start, sums.stop, _CHUNK):
        part = np.arange(start, min(start + _CHUNK, sums.stop))
        first, second = (rounded_mean(part, count, x, output, each) for each in (one, two))
        differing += int(np.count_nonzero(first != second))
    return differing, len(sums)
