"""Functions of one number that are made of raw operations: each becomes a table."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode, graph_between, nodes
from keras_qat.quantization.passes.recipes import Link
from keras_qat.quantized_layers import Function

_POINTWISE = frozenset(
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
    if type(node.operation).__name__ not in _POINTWISE or _is_layer(node.operation):
        return False
    given = node.fill_in({id(tensor): tensor for tensor in node.inputs})
    constants = [x for x in keras.tree.flatten(given) if not isinstance(x, keras.KerasTensor)]
    return all(map(_is_plain, [*constants, *_options(node.operation)]))


def _options(operation: Any) -> list[Any]:
    """The options of an operation that could be arrays."""
    return [value for name, value in vars(operation).items() if not name.startswith("_")]


def _is_plain(value: Any) -> bool:
    """A number, or an option such as a dtype; no array, and no variable."""
    return value is None or isinstance(value, bool | int | float | str | np.number)


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
