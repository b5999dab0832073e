"""Removes RESHAPE ops that a graph does not need."""

from __future__ import annotations

import dataclasses

from keras_qat.integer import ops
from keras_qat.integer.graph import GraphBuilder, IntegerGraph

_OF_ANY_SHAPE = (ops.BinaryOp, ops.Lookup, ops.Maximum, ops.Minimum)
"""Ops that compute element by element, in any shape that all their inputs share."""

_FLAT = "/flat"


def without_needless_reshapes(graph: IntegerGraph) -> IntegerGraph:
    """The same graph without needless RESHAPE ops.

    A RESHAPE is needless if it reads a RESHAPE, keeps the shape, or is not read. A RESHAPE in front
    of an op that computes the same in any shape moves behind it, where it may become needless. If
    the RESHAPE from `"conv/flat"` to `"conv"` is gone, `"conv/flat"` is renamed to `"conv"`.

    >>> import numpy as np
    >>> from keras_qat.integer import QuantParams
    >>> builder, grid = GraphBuilder(), QuantParams(np.float32(0.1))
    >>> x = builder.add_input("x", (1, 6, 4), grid)
    >>> x = builder.add(ops.Reshape((x,), "flat", (24,)), grid)
    >>> x = builder.add(ops.Reshape((x,), "y", (2, 12)), grid)
    >>> [(op.inputs, op.output) for op in without_needless_reshapes(builder.build((x,))).ops]
    [(('x',), 'y')]
    """
    return _named_by_layers(_without_unread_reshapes(_Rewiring(graph).graph()))


class _Rewiring:
    """Makes ops read the input of a RESHAPE instead of its output, where the shape fits."""

    def __init__(self, graph: IntegerGraph):
        self._old = graph
        self._new = GraphBuilder()
        self._origin: dict[str, str] = {}  # output of a RESHAPE -> the tensor before all RESHAPEs
        for name in graph.inputs:
            tensor = graph.tensors[name]
            self._new.add_input(name, tensor.shape, tensor.qparams, tensor.dtype)

    def graph(self) -> IntegerGraph:
        for op in self._old.ops:
            self._add(op)
        return self._new.build(self._old.outputs)

    def _add(self, op: ops.IntegerOp) -> None:
        grid = self._old.tensors[op.output].qparams
        origins = tuple(self._origin.get(name, name) for name in op.inputs)
        if isinstance(op, ops.Reshape):
            self._origin[op.output] = origins[0]
            self._new.add(dataclasses.replace(op, inputs=origins), grid)
        elif self._moves_ahead(op, origins):
            moved = dataclasses.replace(op, inputs=origins, output=op.output + _FLAT)
            self._add_reshape(self._new.add(moved, grid), op.output)
        else:
            inputs = tuple(map(self._in_its_shape, op.inputs))
            self._new.add(dataclasses.replace(op, inputs=inputs), grid)

    def _add_reshape(self, source: str, name: str) -> None:
        tensor = self._old.tensors[name]
        self._origin[name] = source
        self._new.add(ops.Reshape((source,), name, tensor.shape[1:]), tensor.qparams)

    def _moves_ahead(self, op: ops.IntegerOp, origins: tuple[str, ...]) -> bool:
        """Whether the op may run before the RESHAPE ops whose outputs it reads."""
        reshaped = all(name in self._origin for name in op.inputs)
        shapes = {self._new.tensor(name).shape for name in origins}
        own = self._old.tensors[op.output].shape
        if isinstance(op, ops.FullyConnected):  # a product over the last axis, which has to stay
            features = op.weight.values.shape[1]
            return reshaped and len(own) > 2 and {shape[-1] for shape in shapes} == {features}
        return isinstance(op, _OF_ANY_SHAPE) and reshaped and len(shapes) == 1

    def _in_its_shape(self, name: str) -> str:
        """The tensor before all RESHAPE ops if it has this shape, else the tensor itself."""
        origin = self._origin.get(name, name)
        same = self._new.tensor(origin).shape == self._old.tensors[name].shape
        return origin if same else name


def _without_unread_reshapes(graph: IntegerGraph) -> IntegerGraph:
    read = {*graph.outputs, *(name for op in graph.ops for name in op.inputs)}
    kept = tuple(op for op in graph.ops if op.output in read or not isinstance(op, ops.Reshape))
    written = {*graph.inputs, *(op.output for op in kept)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in written}
    return dataclasses.replace(graph, tensors=tensors, ops=kept)


def _named_by_layers(graph: IntegerGraph) -> IntegerGraph:
    """Renames `"conv/flat"` to `"conv"` where that name is free."""
    names, taken = {}, set(graph.tensors)
    for name in graph.tensors:
        names[name] = name
        while (shorter := names[name].removesuffix(_FLAT)) not in taken:
            names[name] = shorter
            taken.add(shorter)
    tensors = {
        names[name]: dataclasses.replace(tensor, name=names[name])
        for name, tensor in graph.tensors.items()
    }
    renamed = tuple(
        dataclasses.replace(
            op, inputs=tuple(names[name] for name in op.inputs), output=names[op.output]
        )
        for op in graph.ops
    )
    outputs = tuple(names[name] for name in graph.outputs)
    return dataclasses.replace(graph, tensors=tensors, ops=renamed, outputs=outputs).validate()
