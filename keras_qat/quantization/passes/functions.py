"""Functions of one number that are made of raw operations: each becomes a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode, consumers, graph_between, nodes
from keras_qat.quantization.passes.recipes import Link
from keras_qat.quantized_layers import Function

POINTWISE = frozenset(
    (
        *("Abs", "Absolute", "Add", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctan2"),
        *("Arctanh", "Cast", "Cbrt", "Ceil", "Celu", "Clip", "ConvertToTensor", "Copy", "Cos"),
        *("Cosh", "Deg2rad", "Divide", "DivideNoNan", "Elu", "Equal", "Erf", "Erfc", "Erfinv"),
        *("Exp", "Exp2", "Expm1", "Fabs", "Floor", "FloorDivide", "Fmax", "Fmin", "Fmod"),
        *("FullLike", "Gelu", "Greater", "GreaterEqual", "HardShrink", "HardSigmoid", "HardSilu"),
        *("HardTanh", "Heaviside", "Hypot", "Isfinite", "Isinf", "Isnan", "LeakyRelu", "Less"),
        *("LessEqual", "Log", "Log10", "Log1p", "Log2", "LogSigmoid", "Logaddexp", "LogicalAnd"),
        *("LogicalNot", "LogicalOr", "LogicalXor", "Maximum", "Minimum", "Mod", "Multiply"),
        *("NanToNum", "Negative", "NotEqual", "OnesLike", "Power", "Rad2deg", "ReLU"),
        *("Reciprocal", "Relu", "Relu6", "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu"),
        *("Sin", "Sinc", "Sinh", "SoftShrink", "Softplus", "Softsign", "SparsePlus"),
        *("SparseSigmoid", "Sqrt", "Square", "Squareplus", "StopGradient", "Subtract", "Tan"),
        *("Tanh", "TanhShrink", "Threshold", "TrueDivide", "Trunc", "Where", "ZerosLike"),
    )
)
"""The class names of operations in Keras that compute element by element."""


def is_pointwise(graph: keras.Model) -> bool:
    """Whether a graph is a function of one number: a table states it exactly."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return False
    x, y = graph.inputs[0], graph.outputs[0]
    calls = list(nodes(graph))
    is_float = all(keras.backend.is_float_dtype(each.dtype) for each in (x, y))
    return bool(calls) and x.shape == y.shape and is_float and all(map(_is_pointwise, calls))


def _is_pointwise(node: GraphNode) -> bool:
    if type(node.operation).__name__ not in POINTWISE or _is_layer(node.operation):
        return False
    given = node.fill_in({id(tensor): tensor for tensor in node.inputs})
    constants = [x for x in keras.tree.flatten(given) if not isinstance(x, keras.KerasTensor)]
    return all(map(_is_plain, [*constants, *_options(node.operation)]))


def _options(operation: Any) -> list[Any]:
    """The options of an operation that could be arrays."""
    return [value for name, value in vars(operation).items() if not name.startswith("_")]


def _is_plain(value: Any) -> bool:
    """A number, or an option such as a dtype; no array of several numbers, and no variable."""
    if value is None or isinstance(value, bool | int | float | str | np.number):
        return True
    one_number = hasattr(value, "dtype") and getattr(value, "shape", None) == ()
    return one_number and not isinstance(value, keras.Variable)


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer)


def function_layer(graph: keras.Model) -> Link:
    """The layer that computes a function of one number."""
    return Function, {"graph": graph}


def function_of(node: GraphNode) -> Link | None:
    """The same for one raw operation; `None` if it is no function of one number."""
    if _is_layer(node.operation) or len(node.inputs) != 1 or not _is_pointwise(node):
        return None
    (given,) = node.inputs
    x = keras.Input(batch_shape=given.shape, dtype=given.dtype)
    args, kwargs = node.fill_in({id(given): x})
    graph = graph_between(x, node.operation(*args, **kwargs))
    return function_layer(graph) if is_pointwise(graph) else None


class Regions:
    """Raw operations of a graph that are a function of one number together, though not each alone.

    In `where(x > 0, x, 0.1 * x)`, no layer computes the comparison, and one table computes all.
    `layers_of` has a layer for some operations; these stay as they are if no other one needs them.

    Args:
        graph: the graph.
        has_layers: whether an operation alone has layers.
    """

    def __init__(self, graph: keras.Model, has_layers: Callable[[GraphNode], bool]):
        self._calls = list(nodes(graph))
        self._makers = {id(t): node for node in self._calls for t in node.outputs}
        self._roots: dict[int, Any] = {}
        for node in self._calls:
            self._find_root(node)
        read = consumers(graph)
        alone = {id(node.outputs[0]): has_layers(node) for node in self._calls if _is_raw(node)}
        self.results: dict[int, tuple[Any, keras.Model]] = {}
        self.inside: set[int] = set()
        for node in self._calls:
            tensor = node.outputs[0]
            readers = read.get(id(tensor), [])
            ends = not all(reader is not None and self._joins(node, reader) for reader in readers)
            if id(tensor) not in self._roots or not (ends or not readers):
                continue
            members = self._members(tensor)
            if all(alone[id(each.outputs[0])] for each in members):
                continue
            found = self._function(tensor)
            if found is not None:
                self.results[id(tensor)] = (self._roots[id(tensor)], found)
                self.inside.update(id(each.outputs[0]) for each in members)

    def _find_root(self, node: GraphNode) -> None:
        """Records the one tensor that a pointwise operation is a function of, if there is one."""
        if not _is_raw(node) or not node.inputs or not _is_pointwise(node):
            return
        roots = [self._roots.get(id(tensor), tensor) for tensor in node.inputs]
        if len({id(root) for root in roots}) == 1 and len(node.outputs) == 1:
            self._roots[id(node.outputs[0])] = roots[0]

    def _joins(self, node: GraphNode, reader: GraphNode) -> bool:
        root, other = (self._roots.get(id(each.outputs[0])) for each in (node, reader))
        return root is not None and root is other

    def _members(self, tensor: Any) -> list[GraphNode]:
        """The operations between the root of a tensor and the tensor."""
        found: dict[int, GraphNode] = {}
        left = [tensor]
        while left:
            each = left.pop()
            if id(each) in self._roots and id(each) not in found:
                found[id(each)] = self._makers[id(each)]
                left.extend(self._makers[id(each)].inputs)
        return list(found.values())

    def _function(self, tensor: Any) -> keras.Model | None:
        root = self._roots[id(tensor)]
        x = keras.Input(batch_shape=root.shape, dtype=root.dtype)
        values = {id(root): x}
        members = {id(each.outputs[0]) for each in self._members(tensor)}
        for node in self._calls:
            if id(node.outputs[0]) in members:
                args, kwargs = node.fill_in(values)
                values[id(node.outputs[0])] = node.operation(*args, **kwargs)
        graph = graph_between(x, values[id(tensor)])
        return graph if is_pointwise(graph) else None


def _is_raw(node: GraphNode) -> bool:
    return not _is_layer(node.operation)
