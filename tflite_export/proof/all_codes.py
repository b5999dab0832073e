"""Proves ADD, SUB, MUL, MAXIMUM and MINIMUM of two tensors on every pair of codes.

Samples may miss a pair. A runtime chooses another kernel where a tensor is read twice or is
broadcast, so each operator is proven in the form that it has in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tflite_export.file.file_model import FileModel
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import write_model
from tflite_export.ops.emit_model import emit_model

Verify = Callable[[IntegerGraph, bytes, FileModel, dict[str, npt.NDArray[np.int8]]], None]
Shape = tuple[int, ...]

_MOST_PROVEN = 4096
_PROVEN: set[object] = set()
"""The operators that were proven in this process."""


def prove_every_pair(graph: IntegerGraph, profile: str, verify: Verify) -> None:
    """Runs every op on two tensors alone, on all pairs of codes of their grids.

    Args:
        graph: the graph exactly as the file states it.
        profile: the rounding profile.
        verify: raises an error if a runtime differs on `(graph, file bytes, file, samples)`.
    """
    for op in graph.ops:
        if not isinstance(op, ops.BinaryOp):
            continue
        key = (profile, type(op), getattr(op, "activation", None), *_form(op, graph))
        if key in _PROVEN:
            continue
        alone, samples = _alone(op, graph)
        file = emit_model(StoredGraph(alone, {}, {}), {}, False)
        verify(alone, write_model(file), file, samples)
        if len(_PROVEN) < _MOST_PROVEN:
            _PROVEN.add(key)


def _form(op: ops.BinaryOp, graph: IntegerGraph) -> Iterator[object]:
    """All that decides which kernel a runtime chooses, and what it computes."""
    yield op.inputs[0] == op.inputs[1]
    for name in (*op.inputs, op.output):
        tensor = graph.tensors[name]
        yield tensor.qparams
        yield tuple(size > 1 for size in tensor.shape)


def _alone(
    op: ops.BinaryOp, graph: IntegerGraph
) -> tuple[IntegerGraph, dict[str, npt.NDArray[np.int8]]]:
    """The op as a network, and inputs that hold every pair of codes."""
    left, right = (graph.tensors[name] for name in op.inputs)
    output = graph.tensors[op.output].qparams
    if op.inputs[0] == op.inputs[1]:
        codes = _codes(left.qparams)
        shape = _resized(left.shape, codes.size)
        given = {"a": codes.reshape(shape)}
        return _network(op, {"a": (shape, left.qparams)}, output), given
    a, b = _codes(left.qparams), _codes(right.qparams)
    if left.shape == right.shape:
        shape = _resized(left.shape, a.size * b.size)
        given = {"a": np.repeat(a, b.size).reshape(shape), "b": np.tile(b, a.size).reshape(shape)}
        tensors = {"a": (shape, left.qparams), "b": (shape, right.qparams)}
        return _network(op, tensors, output), given
    return _broadcast(op, left.shape, right.shape, (left.qparams, right.qparams), output)


def _broadcast(
    op: ops.BinaryOp,
    left: Shape,
    right: Shape,
    grids: tuple[QuantParams, QuantParams],
    output: QuantParams,
) -> tuple[IntegerGraph, dict[str, npt.NDArray[np.int8]]]:
    """One tensor is the same code everywhere in each example, the other one holds all codes."""
    shapes, codes = (left, right), tuple(map(_codes, grids))
    varying = 1 if any(size > 1 for size in right) else 0
    constant = 1 - varying
    axis = max(i for i, size in enumerate(shapes[varying]) if size > 1)
    long = codes[varying].size
    sizes = [
        tuple(1 if size == 1 else long if i == axis else 2 for i, size in enumerate(shape))
        for shape in shapes
    ]
    along = codes[varying].reshape([-1 if i == axis else 1 for i in range(len(left))])
    across = codes[constant].reshape([-1 if i == 0 else 1 for i in range(len(left))])
    count = codes[constant].size
    found = {
        varying: np.broadcast_to(along, (count, *sizes[varying][1:])),
        constant: np.broadcast_to(across, (count, *sizes[constant][1:])),
    }
    tensors = {"a": (sizes[0], grids[0]), "b": (sizes[1], grids[1])}
    return _network(op, tensors, output), {"a": found[0].copy(), "b": found[1].copy()}


def _network(
    op: ops.BinaryOp, tensors: dict[str, tuple[Shape, QuantParams]], output: QuantParams
) -> IntegerGraph:
    builder = GraphBuilder()
    names = [builder.add_input(name, shape, grid) for name, (shape, grid) in tensors.items()]
    alone = dataclasses.replace(op, inputs=(names[0], names[-1]), output="y")
    return builder.build((builder.add(alone, output),))


def _codes(grid: QuantParams) -> npt.NDArray[np.int8]:
    return np.arange(grid.qmin, grid.qmax + 1).astype(np.int8)


def _resized(shape: Shape, count: int) -> Shape:
    """A shape of this rank with `count` elements in one example, all on the last axis."""
    return (*[1] * (len(shape) - 1), count)
