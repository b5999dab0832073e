"""Functions of the user's that call TensorFlow, as operations of `keras.ops`.

TensorFlow does not take the symbolic tensors of Keras. So it traces the function itself, and each
of its operations is called again as the operation of Keras that computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

_UNARY = {
    **{"Abs": ops.abs, "Ceil": ops.ceil, "Cos": ops.cos, "Elu": ops.elu, "Erf": ops.erf},
    **{"Exp": ops.exp, "Expm1": ops.expm1, "Floor": ops.floor, "Log": ops.log, "Log1p": ops.log1p},
    **{"LogicalNot": ops.logical_not, "Neg": ops.negative, "Reciprocal": ops.reciprocal},
    **{"Relu": ops.relu, "Relu6": ops.relu6, "Rint": ops.round, "Round": ops.round},
    **{"Rsqrt": ops.rsqrt, "Selu": ops.selu, "Sigmoid": ops.sigmoid, "Sign": ops.sign},
    **{"Sin": ops.sin, "Softmax": ops.softmax, "Softplus": ops.softplus},
    **{"Softsign": ops.softsign, "Sqrt": ops.sqrt, "Square": ops.square},
    **{"StopGradient": ops.stop_gradient, "Tan": ops.tan, "Tanh": ops.tanh},
}
_BINARY = {
    **{"Add": ops.add, "AddV2": ops.add, "DivNoNan": ops.divide_no_nan, "Equal": ops.equal},
    **{"Greater": ops.greater, "GreaterEqual": ops.greater_equal, "Less": ops.less},
    **{"LessEqual": ops.less_equal, "LogicalAnd": ops.logical_and, "LogicalOr": ops.logical_or},
    **{"Maximum": ops.maximum, "Minimum": ops.minimum, "Mul": ops.multiply, "Pow": ops.power},
    **{"NotEqual": ops.not_equal, "RealDiv": ops.divide, "Sub": ops.subtract},
}


class _NoEqualError(Exception):
    """An operation of TensorFlow that `keras.ops` does not have. The caller never sees it."""


def on_symbolic(function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
    """`function(*args, **kwargs)` on symbolic tensors of Keras, also if it calls TensorFlow.

    Raises:
        Exception: what the function raises, if it does not run on symbolic tensors of Keras and
            TensorFlow's operations in it have no equal ones there.
    """
    kwargs = kwargs or {}
    try:
        return function(*args, **kwargs)
    except Exception as error:
        if keras.backend.backend() != "tensorflow":
            raise
        try:
            return _retraced(function, args, kwargs)
        except Exception:  # the first error is about what the user wrote
            raise error from None


def _retraced(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    import tensorflow as tf

    flat = keras.tree.flatten((args, kwargs))
    places = [index for index, each in enumerate(flat) if isinstance(each, keras.KerasTensor)]

    def called(*tensors: Any) -> Any:
        filled = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        own_args, own_kwargs = keras.tree.pack_sequence_as((args, kwargs), filled)
        return function(*own_args, **own_kwargs)

    symbolic = [flat[place] for place in places]
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in symbolic]
    concrete = tf.function(called, autograph=False).get_concrete_function(*specs)
    if concrete.variables or concrete.captured_inputs:
        raise _NoEqualError("it reads variables or tensors from outside")
    values: dict[str, Any] = {
        tensor.name: each for tensor, each in zip(concrete.inputs, symbolic, strict=True)
    }
    for operation in concrete.graph.get_operations():
        _call(operation, values)
    structure = concrete.graph.structured_outputs
    return keras.tree.map_structure(lambda tensor: values[tensor.name], structure)


def _call(operation: Any, values: dict[str, Any]) -> None:
    """Calls the operation of Keras, and records its results by the names of the tensors."""
    if operation.type == "Placeholder":
        return
    given = [_value(tensor, values) for tensor in operation.inputs]
    if not any(isinstance(each, keras.KerasTensor) for each in given):
        return  # it computes constants or sizes
    if operation.type == "Shape":
        return
    results = _results(operation, given)
    for tensor, result in zip(operation.outputs, results, strict=True):
        values[tensor.name] = result


def _value(tensor: Any, values: dict[str, Any]) -> Any:
    """A symbolic tensor of Keras, a constant, or `None` if it is neither."""
    import tensorflow as tf

    if tensor.name in values:
        return values[tensor.name]
    found = tf.get_static_value(tensor)
    if found is None:
        return None
    return found.item() if np.ndim(found) == 0 and np.issubdtype(found.dtype, np.number) else found


def _results(operation: Any, given: list[Any]) -> list[Any]:
    kind, x = operation.type, given[0]
    shape = tuple(operation.outputs[0].shape.as_list())
    if kind in _UNARY:
        return [_UNARY[kind](x)]
    if kind in _BINARY:
        return [_BINARY[kind](*map(_known, given))]
    if kind in ("Identity", "IdentityN"):
        return given
    if kind in ("Reshape", "Squeeze", "ExpandDims"):
        return [ops.reshape(x, tuple(-1 if size is None else size for size in shape))]
    find = _OTHERS.get(kind)
    if find is None:
        raise _NoEqualError(kind)
    found = find(operation, *given)
    return list(found) if isinstance(found, list | tuple) else [found]


def _known(value: Any) -> Any:
    if value is None:
        raise _NoEqualError("a size that is not known")
    return value


def _strided_slice(operation: Any, x: Any, begin: Any, end: Any, strides: Any) -> Any:
    """`x[key]`, from the bit masks of TensorFlow."""

    def is_set(mask: str, axis: int) -> bool:
        return bool(operation.get_attr(mask) >> axis & 1)

    key: list[Any] = []
    for axis, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        if is_set("ellipsis_mask", axis):
            key.append(Ellipsis)
        elif is_set("new_axis_mask", axis):
            key.append(None)
        elif is_set("shrink_axis_mask", axis):
            key.append(int(first))
        else:
            low = None if is_set("begin_mask", axis) else int(first)
            high = None if is_set("end_mask", axis) else int(last)
            key.append(slice(low, high, None if step == 1 else int(step)))
    return x[tuple(key)]


def _slice(operation: Any, x: Any, begin: Any, size: Any) -> Any:
    pairs = zip(begin, size, strict=True)
    return x[tuple(slice(int(b), None if s == -1 else int(b + s)) for b, s in pairs)]


def _gather(operation: Any, x: Any, indices: Any, axis: Any = 0) -> Any:
    if operation.get_attr("batch_dims") if operation.type == "GatherV2" else 0:
        raise _NoEqualError("batch_dims")
    return ops.take(x, _known(indices), axis=int(axis))


def _split(operation: Any, x: Any, sizes: Any, axis: Any) -> Any:
    return ops.split(x, np.cumsum(sizes)[:-1].tolist(), axis=int(axis))


def _pad(operation: Any, x: Any, widths: Any, value: Any = 0.0) -> Any:
    return ops.pad(x, np.asarray(widths).tolist(), constant_values=value)


def _reduced(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def find(operation: Any, x: Any, axes: Any) -> Any:
        listed = tuple(np.atleast_1d(_known(axes)).tolist())
        return reduce(x, axis=listed, keepdims=operation.get_attr("keep_dims"))

    return find


def _pooled(pool: Callable[..., Any]) -> Callable[..., Any]:
    def find(operation: Any, x: Any) -> Any:
        window, strides = operation.get_attr("ksize"), operation.get_attr("strides")
        if operation.get_attr("data_format") != b"NHWC" or (window[0], window[3]) != (1, 1):
            raise _NoEqualError("data_format")
        padding = operation.get_attr("padding").decode().lower()
        return pool(x, tuple(window[1:3]), tuple(strides[1:3]), padding)

    return find


def _blocks(move: Callable[..., Any]) -> Callable[..., Any]:
    def find(operation: Any, x: Any) -> Any:
        if operation.get_attr("data_format") != b"NHWC":
            raise _NoEqualError("data_format")
        return move(x, operation.get_attr("block_size"))

    return find


_OTHERS: dict[str, Callable[..., Any]] = {
    "ArgMax": lambda operation, x, axis: ops.argmax(x, axis=int(axis)),
    "AvgPool": _pooled(ops.average_pool),
    "BiasAdd": lambda operation, x, bias: ops.add(x, _known(bias)),
    "Cast": lambda operation, x: ops.cast(x, operation.outputs[0].dtype.name),
    "ConcatV2": lambda operation, *given: ops.concatenate(given[:-1], axis=int(given[-1])),
    "DepthToSpace": _blocks(ops.depth_to_space),
    "GatherV2": _gather,
    "LeakyRelu": lambda operation, x: ops.leaky_relu(x, operation.get_attr("alpha")),
    "Max": _reduced(ops.max),
    "MaxPool": _pooled(ops.max_pool),
    "Mean": _reduced(ops.mean),
    "OnesLike": lambda operation, x: ops.ones_like(x),
    "Pack": lambda operation, *given: ops.stack(
        list(map(_known, given)), axis=operation.get_attr("axis")
    ),
    "Pad": _pad,
    "PadV2": _pad,
    "ReverseV2": lambda operation, x, axes: ops.flip(x, np.atleast_1d(axes).tolist()),
    "Select": lambda operation, *given: ops.where(*map(_known, given)),
    "SelectV2": lambda operation, *given: ops.where(*map(_known, given)),
    "Slice": _slice,
    "SpaceToDepth": _blocks(ops.space_to_depth),
    "Split": lambda operation, axis, x: ops.split(
        x, operation.get_attr("num_split"), axis=int(axis)
    ),
    "SplitV": _split,
    "SquaredDifference": lambda operation, x, y: ops.square(ops.subtract(_known(x), _known(y))),
    "StridedSlice": _strided_slice,
    "Sum": _reduced(ops.sum),
    "Tile": lambda operation, x, repeats: ops.tile(x, np.asarray(repeats).tolist()),
    "Transpose": lambda operation, x, order: ops.transpose(x, np.asarray(order).tolist()),
    "Unpack": lambda operation, x: ops.unstack(
        x, operation.get_attr("num"), operation.get_attr("axis")
    ),
    "ZerosLike": lambda operation, x: ops.zeros_like(x),
}
"""The type of an operation in TensorFlow -> a function that calls the same of Keras."""
