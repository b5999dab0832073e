"""The table of raw operations: which layers compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import GraphNode
from keras_qat.layer_rules.restrictions import joinable
from keras_qat.quantization.passes import moves, reductions
from keras_qat.quantization.passes.functions import POINTWISE, Regions, function_of
from keras_qat.quantization.passes.recipes import Chain, Recipe, recipe_of
from keras_qat.quantized_layers import absolute, approximate_gelu, square

layers = keras.layers

Arguments = tuple[Any, ...]
Options = dict[str, Any]
Finder = Callable[[GraphNode, Arguments, Options], Chain | Recipe | None]


def layers_of(node: GraphNode) -> Recipe | None:
    """The layers that compute a raw operation; `None` if there are none, or it is a layer."""
    if isinstance(node.operation, layers.Layer):
        return None
    find = _LAYERS.get(type(node.operation).__name__)
    if find is not None:
        found = find(node, *node.fill_in({id(tensor): tensor for tensor in node.inputs}))
        if found is not None:
            return recipe_of(found)
    function = function_of(node)
    return None if function is None else recipe_of([function])


def supported_operations() -> tuple[list[str], list[str]]:
    """Class names of operations in Keras that become layers, and of those that become tables.

    An operation that becomes layers does so for most of its options.

    >>> supported_operations()[0][:3]
    ['Absolute', 'Add', 'Amax']
    """
    return sorted(_LAYERS), sorted(POINTWISE - _LAYERS.keys())


def regions_of(graph: keras.Model) -> Regions:
    """The operations of a graph that are a table together, because one of them has no layers."""
    return Regions(graph, lambda node: layers_of(node) is not None)


def is_constant(value: Any) -> bool:
    """Whether nothing in a value is a tensor of the graph."""
    return not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(value))


def _of_two(node: GraphNode, args: Arguments = (), kwargs: Options | None = None) -> Chain | None:
    """The merge layer of two tensors of one rank."""
    shapes = [tensor.shape for tensor in node.inputs]
    if len(shapes) != 2 or len({len(shape) for shape in shapes}) > 1 or not joinable(shapes):
        return None
    return [(getattr(layers, type(node.operation).__name__), {})]


def _rescaling(node: GraphNode, scale: Any = 1.0, offset: Any = 0.0) -> Chain | None:
    """`scale * x + offset`, with one number, one for each channel, or one for each value."""
    shape = tuple(node.outputs[0].shape[1:])
    if node.inputs[0].shape != node.outputs[0].shape:
        return None
    arrays = [ops.convert_to_numpy(each).astype(np.float32) for each in (scale, offset)]
    whole = any(x.size > 1 and (x.size, *x.shape[-1:]) != (shape[-1],) * 2 for x in arrays)
    if not whole:
        return [_scaled(arrays)]
    if None in shape or any(x.ndim > len(shape) and x.shape[0] != 1 for x in arrays):
        return None
    arrays = [x.reshape(x.shape[-len(shape) :]) for x in arrays]
    flat = [x if x.size == 1 else np.broadcast_to(x, shape) for x in arrays]
    return [
        (layers.Reshape, {"target_shape": (int(np.prod(shape)),)}),
        _scaled(flat),
        (layers.Reshape, {"target_shape": shape}),
    ]


def _scaled(arrays: Any) -> tuple[type, Options]:
    numbers = (float(x.item()) if x.size == 1 else x.ravel().tolist() for x in arrays)
    return layers.Rescaling, dict(zip(("scale", "offset"), numbers, strict=True))


def _multiply(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    constants = [x for x in args if is_constant(x)]
    return _rescaling(node, scale=constants[0]) if len(constants) == 1 else _of_two(node)


def _divide(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    divisible = len(args) == 2 and is_constant(args[1]) and np.all(args[1])
    return _rescaling(node, scale=1.0 / np.asarray(args[1], np.float64)) if divisible else None


def _subtract(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    left, right = args if len(args) == 2 else (None, None)
    if is_constant(right) and right is not None:
        return _rescaling(node, offset=-np.asarray(right))
    if is_constant(left) and left is not None:
        return _rescaling(node, scale=-1.0, offset=left)
    return _of_two(node)


def _negative(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return _rescaling(node, scale=-1.0)


def _add(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    constants = [x for x in args if is_constant(x)]
    return _rescaling(node, offset=constants[0]) if len(constants) == 1 else _of_two(node)


def _maximum(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A maximum with 0 is a ReLU."""
    constants = [x for x in args if is_constant(x)]
    if not constants:
        return _of_two(node)
    is_relu = np.ndim(constants[0]) == 0 and constants[0] == 0
    return [(layers.ReLU, {})] if is_relu else None


def _clip(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A clip from 0 on is a ReLU with an upper limit."""
    low, high = node.operation.x_min, node.operation.x_max
    plain = all(isinstance(each, int | float) for each in (low, high))
    return [(layers.ReLU, {"max_value": high})] if plain and low == 0 < high else None


def _power(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """The square has a function of its own."""
    exponent: Any = args[1] if len(args) > 1 else kwargs.get("x2")
    squared = is_constant(exponent) and np.ndim(exponent) == 0 and exponent == 2
    return [(layers.Activation, {"activation": square})] if squared else None


def _relu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.ReLU, {})]


def _relu_function(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    """`keras.activations.relu`, with its options."""
    names = ("max_value", "negative_slope", "threshold")
    return [(layers.ReLU, {name: getattr(node.operation, name) for name in names})]


def _relu6(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.ReLU, {"max_value": 6.0})]


def _activation(name: str, **defaults: Any) -> Finder:
    """`Activation(name)`, for an operation whose options have the given values."""

    def find(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
        options = {option: getattr(node.operation, option) for option in defaults}
        return [(layers.Activation, {"activation": name})] if options == defaults else None

    return find


def _function(function: Callable[[Any], Any]) -> Finder:
    """`Activation` of a function of `keras_qat`."""
    return lambda node, args, kwargs: [(layers.Activation, {"activation": function})]


def _gelu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    function = approximate_gelu if node.operation.approximate else keras.activations.gelu
    return [(layers.Activation, {"activation": function})]


def _elu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.ELU, {"alpha": node.operation.alpha})]


def _leaky_relu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.LeakyReLU, {"negative_slope": node.operation.negative_slope})]


def _softmax(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return softmax_over(node.operation.axis, len(node.inputs[0].shape))


def softmax_over(axis: Any, rank: int) -> Chain | None:
    """A softmax over any axis but the batch, between two permutations if it is not the last."""
    if not isinstance(axis, int) or axis % rank == 0:
        return None
    last = [(layers.Softmax, {"axis": -1})]
    if axis % rank == rank - 1:
        return [(layers.Softmax, {"axis": axis})]
    order = list(range(rank))
    order[axis % rank], order[-1] = order[-1], order[axis % rank]
    permute = (layers.Permute, {"dims": tuple(order[1:])})
    return [permute, *last, permute]


def _normalize(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """`UnitNormalization`: for norms above `epsilon`, and for 0, both compute the same."""
    operation = node.operation
    epsilon = keras.backend.epsilon() if operation.epsilon is None else operation.epsilon
    if operation.order != 2 or epsilon > _LEAST_NORM or operation.axis in (None, 0):
        return None
    return [(layers.UnitNormalization, {"axis": operation.axis})]


_LEAST_NORM = 1e-6


_LAYERS: dict[str, Finder] = {
    "Add": _add,
    "Absolute": _function(absolute),
    "Amax": reductions.maximum,
    "Append": moves.append,
    "Argmax": reductions.argmax,
    "ArraySplit": moves.split,
    "AveragePool": reductions.pooling(layers.AveragePooling1D, layers.AveragePooling2D),
    "BroadcastTo": moves.broadcast_to,
    "Cast": moves.conversion,
    "Clip": _clip,
    "Concatenate": moves.concatenate,
    "ConvertToTensor": moves.conversion,
    "Copy": moves.nothing,
    "DepthToSpace": moves.depth_to_space,
    "Divide": _divide,
    "Dstack": moves.stacks_of_arrays(2),
    "Celu": _activation("celu", alpha=1.0),
    "Elu": _elu,
    "Exp": _activation("exponential"),
    "ExpandDims": moves.reshape,
    "Flip": moves.flip,
    "Gelu": _gelu,
    "GetItem": moves.get_item,
    "HardShrink": _activation("hard_shrink", threshold=0.5),
    "HardSigmoid": _activation("hard_sigmoid"),
    "HardSilu": _activation("hard_silu"),
    "HardTanh": _activation("hard_tanh"),
    "Hstack": moves.stacks_of_arrays(1),
    "LeakyRelu": _leaky_relu,
    "LogSigmoid": _activation("log_sigmoid"),
    "Max": reductions.maximum,
    "MaxPool": reductions.pooling(layers.MaxPooling1D, layers.MaxPooling2D),
    "Maximum": _maximum,
    "Mean": reductions.mean,
    "Minimum": _of_two,
    "Moveaxis": moves.moveaxis,
    "Multiply": _multiply,
    "Negative": _negative,
    "Normalize": _normalize,
    "Pad": moves.pad,
    "Power": _power,
    "ReLU": _relu_function,
    "Relu": _relu,
    "Relu6": _relu6,
    "Repeat": moves.repeat,
    "Reshape": moves.reshape,
    "Roll": moves.roll,
    "Rot90": moves.rot90,
    "Selu": _activation("selu"),
    "Sigmoid": _activation("sigmoid"),
    "Silu": _activation("silu"),
    "SoftShrink": _activation("soft_shrink", threshold=0.5),
    "Softmax": _softmax,
    "SpaceToDepth": moves.space_to_depth,
    "Split": moves.split,
    "Squeeze": moves.reshape,
    "Stack": moves.stack,
    "StopGradient": moves.stop_gradient,
    "Subtract": _subtract,
    "Sum": reductions.total,
    "Swapaxes": moves.swapaxes,
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "SparsePlus": _activation("sparse_plus"),
    "SparseSigmoid": _activation("sparse_sigmoid"),
    "Square": _function(square),
    "Squareplus": _activation("squareplus", b=4),
    "Take": moves.take,
    "Tanh": _activation("tanh"),
    "TanhShrink": _activation("tanh_shrink"),
    "Tile": moves.tile,
    "Transpose": moves.transpose,
    "TrueDivide": _divide,
    "Unstack": moves.unstack,
}
"""The class name of an operation in Keras -> the function that finds its layers."""
