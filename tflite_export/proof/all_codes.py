"""Proves operators that compute element by element on every code, or on every pair of codes.

These are ADD, SUB, MUL, MAXIMUM and MINIMUM of two tensors, MAXIMUM and MINIMUM of a tensor and a
constant, PRELU, and lookups. Samples may miss a code. A runtime chooses another kernel where a
tensor is read twice or is broadcast, so each operator is proven in the form that it has in the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tflite_export.file.file_model import FileModel
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import write_model
from tflite_export.ops.emit_model import emit_model

Verify = Callable[[str, IntegerGraph, bytes, FileModel, dict[str, npt.NDArray[np.int8]]], Any]
Shape = tuple[int, ...]

_MOST_PROVEN = 4096
_OF_ONE = ops.Lookup | ops.Maximum | ops.Minimum | ops.PReLU
_PROVEN: set[object] = set()
"""The operators that were proven in this process."""


def prove_every_code(stored: StoredGraph, runtimes: Sequence[str], verify: Verify) -> None:
    """Runs every elementwise op alone, on all codes of its grid, or on all pairs of two grids.

    Args:
        stored: the graph exactly as the file states it.
        runtimes: names of the runtimes.
        verify: raises an error if a runtime differs on `(runtime, graph, bytes, file, samples)`.
    """
    graph = stored.graph
    for op in graph.ops:
        if not isinstance(op, ops.BinaryOp | _OF_ONE):
            continue
        native = {name: each for name, each in stored.native.items() if name == op.output}
        key = (*runtimes, type(op), *_constants(op), bool(native), *_form(op, graph))
        if key in _PROVEN:
            continue
        alone, samples = _alone(op, graph)
        file = emit_model(StoredGraph(alone, {}, native), {}, False)
        data = write_model(file)
        for runtime in runtimes:
            verify(runtime, alone, data, file, samples)
        if len(_PROVEN) < _MOST_PROVEN:
            _PROVEN.add(key)


def _constants(op: ops.IntegerOp) -> Iterator[object]:
    """What the op computes with, beside its tensors."""
    yield getattr(op, "activation", None)
    yield getattr(op, "bound", None)
    if isinstance(op, ops.Lookup):
        yield op.table.tobytes()
    if isinstance(op, ops.PReLU):
        slopes = op.slopes
        yield slopes.values.tobytes(), slopes.values.shape, float(slopes.qparams.scale)


def _form(op: ops.IntegerOp, graph: IntegerGraph) -> Iterator[object]:
    """All that decides which kernel a runtime chooses, and what it computes."""
    yield op.inputs[0] == op.inputs[-1]
    for name in (*op.inputs, op.output):
        tensor = graph.tensors[name]
        yield tensor.qparams
        yield tuple(size > 1 for size in tensor.shape)


def _alone(
    op: ops.IntegerOp, graph: IntegerGraph
) -> tuple[IntegerGraph, dict[str, npt.NDArray[np.int8]]]:
    """The op as a network, and inputs that hold every code or every pair of codes."""
    left, right = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[-1]]
    output = graph.tensors[op.output].qparams
    if isinstance(op, ops.PReLU):
        codes, shape = _codes(left.qparams), _at_slopes(op.slopes.values.shape, left.shape)
        everywhere = np.broadcast_to(_along(0, codes, len(shape)), (codes.size, *shape[1:]))
        return _network(op, output, (shape, left.qparams, everywhere))
    if op.inputs[0] == op.inputs[-1]:
        codes = _codes(left.qparams)
        shape = _resized(left.shape, codes.size)
        return _network(op, output, (shape, left.qparams, codes.reshape(shape)))
    a, b = _codes(left.qparams), _codes(right.qparams)
    if left.shape == right.shape:
        shape = _resized(left.shape, a.size * b.size)
        repeated, tiled = np.repeat(a, b.size).reshape(shape), np.tile(b, a.size).reshape(shape)
        of_left, of_right = (shape, left.qparams, repeated), (shape, right.qparams, tiled)
        return _network(op, output, of_left, of_right)
    sizes, values = _broadcast(left.shape, right.shape, a, b)
    grids = (left.qparams, right.qparams)
    return _network(op, output, *zip(sizes, grids, values, strict=True))


def _broadcast(
    left: Shape, right: Shape, *codes: npt.NDArray[np.int8]
) -> tuple[list[Shape], list[npt.NDArray[np.int8]]]:
    """One tensor is the same code everywhere in each example, the other one holds all codes."""
    shapes, rank = (left, right), len(left)
    varying = 1 if any(size > 1 for size in right) else 0
    constant = 1 - varying
    axis = max(i for i, size in enumerate(shapes[varying]) if size > 1)
    long, count = codes[varying].size, codes[constant].size
    sizes = [
        tuple(1 if size == 1 else long if i == axis else 2 for i, size in enumerate(shape))
        for shape in shapes
    ]
    ordered = [_along(0, each, rank) for each in codes]
    ordered[varying] = _along(axis, codes[varying], rank)
    wholes = [(count, *size[1:]) for size in sizes]
    return sizes, [np.broadcast_to(*pair) for pair in zip(ordered, wholes, strict=True)]


def _along(axis: int, codes: npt.NDArray[np.int8], rank: int) -> npt.NDArray[np.int8]:
    return codes.reshape([-1 if i == axis else 1 for i in range(rank)])


def _at_slopes(slopes: Shape, shape: Shape) -> Shape:
    """A shape on which each slope is met, and is broadcast where it is in the network."""
    own = (*[1] * (len(shape) - len(slopes)), *slopes)
    pairs = zip(own, shape, strict=True)
    return tuple(size if slope > 1 else min(size, 2) for slope, size in pairs)


def _network(
    op: ops.IntegerOp,
    output: QuantParams,
    *operands: tuple[Shape, QuantParams, npt.NDArray[np.int8]],
) -> tuple[IntegerGraph, dict[str, npt.NDArray[np.int8]]]:
    builder = GraphBuilder()
    given = {}
    for name, (shape, grid, values) in zip(dict.fromkeys(op.inputs), operands, strict=True):
        given[builder.add_input(name, shape, grid)] = np.ascontiguousarray(values)
    return builder.build((builder.add(op, output),)), given


def _codes(grid: QuantParams) -> npt.NDArray[np.int8]:
    return np.arange(grid.qmin, grid.qmax + 1).astype(np.int8)


def _resized(shape: Shape, count: int) -> Shape:
    """A shape of this rank with `count` elements in one example, all on the last axis."""
    return (*[1] * (len(shape) - 1), count)
