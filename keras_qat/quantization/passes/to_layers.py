"""Pass: raw operations such as `x + y` become layers, and inner models are taken apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.copying import copy_of
from keras_qat.keras_graph import (
    GraphNode,
    flat_inputs,
    is_graph,
    nodes,
    packed_outputs,
    rebuild,
    replay,
)
from keras_qat.layer_rules.restrictions import joinable
from keras_qat.quantization.passes.layer_copies import LayerCopies, float_copy_of, unused_name
from keras_qat.quantization.passes.slicing import Chain, slice_layers
from keras_qat.quantization.passes.tracing import expanded, may_expand
from keras_qat.quantized_layers import absolute, approximate_gelu, square

layers = keras.layers

Arguments = tuple[Any, ...]
Options = dict[str, Any]

_NOTHING: Chain = [(layers.Activation, {"activation": "linear"})]
_SPATIAL = (1, 2)
_OF_TWO = (layers.Add, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract)


def to_layers(
    model: keras.Model, stays_whole: Callable[[str], bool] = lambda name: False
) -> keras.Model:
    """An equal model of layers; raw operations without a matching layer stay.

    Some examples:

    * `x + y`, `x - y`, `x * y`, maxima and minima of two tensors become `Add`, `Subtract`,
      `Multiply`, `Maximum` and `Minimum`.
    * A slice with steps over height and width becomes a `Cropping2D` and a `MaxPooling2D` of one
      pixel. A slice of channels becomes the same layers between two `Permute`.
    * Zeros around channels become a `ZeroPadding2D` between two `Permute`.

    The last layer takes the name of the operation. A model inside the model is replaced by its
    layers, under their names if these are free. So is a custom layer made of layers, unless
    `stays_whole(name)`. As in Keras, `training=False` given to an inner model while a graph is
    built does not outlast `fit`, and `trainable=False` does. A model with nothing to change is
    returned itself.
    """
    if all(_is_plain_layer(node.operation) for node in nodes(model)):
        return model
    builder = _Builder(model, stays_whole)
    result = rebuild(model, builder.call)
    builder.copies.copy_weights()
    return result


class _Builder:
    def __init__(self, model: keras.Model, stays_whole: Callable[[str], bool]):
        self._stays_whole = stays_whole
        self.copies = LayerCopies()
        self._outer = {id(layer) for layer in model.layers}  # these keep their names
        self._taken = {layer.name for layer in model.layers}
        self._freed: set[str] = set()  # of layers that are taken apart

    def call(self, node: GraphNode, args: Arguments, kwargs: Options) -> Any:
        """Replaces one call in the graph."""
        operation = node.operation
        if is_graph(operation):
            outputs = replay(operation, flat_inputs(operation, args[0]), self.call)
            return packed_outputs(operation, outputs)
        graph = None if self._stays_whole(operation.name) else expanded(node)
        if graph is not None:
            if id(operation) in self._outer:
                self._freed.add(operation.name)
            given = [x for x in keras.tree.flatten((args, kwargs)) if not _is_constant(x)]
            values = {id(x): value for x, value in zip(node.inputs, given, strict=True)}
            return packed_outputs(graph, replay(graph, list(values.values()), self.call))
        if isinstance(operation, layers.Layer):
            make = self._float_copy if self._stays_whole(operation.name) else self._copy
            return self.copies.of(operation, make)(*args, **kwargs)
        chain = layers_of(node)
        if chain is None:
            return operation(*args, **kwargs)
        operands = [x for x in (*args, *kwargs.values()) if not _is_constant(x)]
        return self._apply(chain, operation, operands)

    def _copy(self, layer: Any) -> Any:
        return copy_of(layer, **self._new_name(layer))

    def _float_copy(self, layer: Any) -> Any:
        return float_copy_of(layer, **self._new_name(layer))

    def _new_name(self, layer: Any) -> Options:
        if id(layer) in self._outer:
            return {}
        if layer.name in self._freed:  # the one layer that a custom layer becomes
            self._freed.discard(layer.name)
            return {}
        return {"name": unused_name(layer.name, self._taken)}

    def _apply(self, chain: Chain, operation: Any, tensors: list[Any]) -> Any:
        value = tensors if chain[0][0] in _OF_TWO else tensors[0]
        for kind, options in chain[:-1]:
            name = unused_name(f"{operation.name}_{kind.__name__.lower()}", self._taken)
            value = kind(**options, name=name)(value)
        kind, options = chain[-1]
        return kind(**options, name=unused_name(operation.name, self._taken))(value)


def _is_plain_layer(operation: Any) -> bool:
    is_layer = isinstance(operation, layers.Layer)
    return is_layer and not is_graph(operation) and not may_expand(operation)


def layers_of(node: GraphNode) -> Chain | None:
    """The layers that compute a raw operation; `None` if there are none, or it is a layer."""
    find = _LAYERS.get(type(node.operation).__name__)
    if find is None or isinstance(node.operation, layers.Layer):
        return None
    return find(node, *node.fill_in({id(tensor): tensor for tensor in node.inputs}))


def _of_two(node: GraphNode, args: Arguments = (), kwargs: Options | None = None) -> Chain | None:
    """The merge layer of two tensors of one rank."""
    shapes = [tensor.shape for tensor in node.inputs]
    if len({len(shape) for shape in shapes}) > 1 or not joinable(shapes):
        return None
    return [(getattr(layers, type(node.operation).__name__), {})]


def _is_constant(value: Any) -> bool:
    return not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(value))


def _rescaling(node: GraphNode, scale: Any = 1.0, offset: Any = 0.0) -> Chain | None:
    """`scale * x + offset`, with one number or with one number for each channel."""
    channels = node.outputs[0].shape[-1]
    arrays = [ops.convert_to_numpy(each).astype(np.float32) for each in (scale, offset)]
    known = node.inputs[0].shape == node.outputs[0].shape
    if not known or any(x.size > 1 and (x.size, *x.shape[-1:]) != (channels,) * 2 for x in arrays):
        return None
    scale, offset = (float(x.item()) if x.size == 1 else x.ravel().tolist() for x in arrays)
    return [(layers.Rescaling, {"scale": scale, "offset": offset})]


def _multiply(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    constants = [x for x in args if _is_constant(x)]
    return _rescaling(node, scale=constants[0]) if len(constants) == 1 else _of_two(node)


def _divide(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    divisible = len(args) == 2 and _is_constant(args[1]) and np.all(args[1])
    return _rescaling(node, scale=1.0 / np.asarray(args[1], np.float64)) if divisible else None


def _subtract(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    left, right = args if len(args) == 2 else (None, None)
    if _is_constant(right) and right is not None:
        return _rescaling(node, offset=-np.asarray(right))
    if _is_constant(left) and left is not None:
        return _rescaling(node, scale=-1.0, offset=left)
    return _of_two(node)


def _negative(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return _rescaling(node, scale=-1.0)


def _add(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    constants = [x for x in args if _is_constant(x)]
    return _rescaling(node, offset=constants[0]) if len(constants) == 1 else _of_two(node)


def _concatenate(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.Concatenate, {"axis": node.operation.axis})]


def _maximum(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A maximum with 0 is a ReLU."""
    constants = [x for x in args if _is_constant(x)]
    if not constants:
        return _of_two(node)
    is_relu = np.ndim(constants[0]) == 0 and constants[0] == 0
    return [(layers.ReLU, {})] if is_relu else None


def _clip(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A clip from 0 on is a ReLU with an upper limit."""
    low, high = node.operation.x_min, node.operation.x_max
    plain = all(isinstance(each, int | float) for each in (low, high))
    return [(layers.ReLU, {"max_value": high})] if plain and low == 0 < high else None


def _relu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.ReLU, {})]


def _relu_function(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    """`keras.activations.relu`, with its options."""
    names = ("max_value", "negative_slope", "threshold")
    return [(layers.ReLU, {name: getattr(node.operation, name) for name in names})]


def _relu6(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.ReLU, {"max_value": 6.0})]


def _activation(name: str, **defaults: Any) -> Callable[..., Chain | None]:
    """`Activation(name)`, for an operation whose options have the given values."""

    def find(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
        options = {option: getattr(node.operation, option) for option in defaults}
        return [(layers.Activation, {"activation": name})] if options == defaults else None

    return find


def _function(function: Callable[[Any], Any]) -> Callable[..., Chain]:
    """`Activation` of a function of `keras_qat`."""
    return lambda node, args, kwargs: [(layers.Activation, {"activation": function})]


def _gelu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    function = approximate_gelu if node.operation.approximate else keras.activations.gelu
    return [(layers.Activation, {"activation": function})]


def _elu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.ELU, {"alpha": node.operation.alpha})]


def _leaky_relu(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.LeakyReLU, {"negative_slope": node.operation.negative_slope})]


def _softmax(node: GraphNode, args: Arguments, kwargs: Options) -> Chain:
    return [(layers.Softmax, {"axis": node.operation.axis})]


def _reshape(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    before, after = node.inputs[0].shape[1:], node.outputs[0].shape[1:]
    if None in (*before, *after) or math.prod(before) != math.prod(after):
        return None
    return [(layers.Reshape, {"target_shape": after})]


def _transpose(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    axes = node.operation.axes
    if not axes or axes[0] != 0:
        return None
    return [(layers.Permute, {"dims": tuple(axes[1:])})]


def _mean(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return _global(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, node)


def _max(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    if node.operation.initial is not None:
        return None
    return _global(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, node)


def _global(over_sequence: type, over_image: type, node: GraphNode) -> Chain | None:
    rank, axis = len(node.inputs[0].shape), node.operation.axis
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    if None in axes:
        return None
    places = tuple(sorted(each % rank for each in axes))
    kind = {(3, (1,)): over_sequence, (4, _SPATIAL): over_image}.get((rank, places))
    return None if kind is None else [(kind, {"keepdims": bool(node.operation.keepdims)})]


def _get_item(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return slice_layers(node.inputs[0].shape, args[1], node.outputs[0].shape)


def _pad(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Zeros around steps, or around height and width and channels."""
    operation = node.operation
    value = args[1] if len(args) > 1 else kwargs.get("constant_values")
    widths = tuple(tuple(pair) for pair in operation.pad_width)
    if operation.mode != "constant" or value not in (None, 0) or any(widths[0]):
        return None
    if len(widths) == 3 and not any(widths[2]):
        return [(layers.ZeroPadding1D, {"padding": widths[1]})]
    if len(widths) != 4:
        return None
    chain: Chain = []
    if any(map(any, widths[1:3])):
        chain.append((layers.ZeroPadding2D, {"padding": widths[1:3]}))
    if any(widths[3]):
        chain += [
            (layers.Permute, {"dims": (3, 1, 2)}),
            (layers.ZeroPadding2D, {"padding": (widths[3], (0, 0))}),
            (layers.Permute, {"dims": (2, 3, 1)}),
        ]
    return chain or _NOTHING


def _conversion(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Nothing, for a conversion to the same dtype."""
    return _NOTHING if node.inputs[0].dtype == node.outputs[0].dtype else None


_LAYERS: dict[str, Callable[[GraphNode, Arguments, Options], Chain | None]] = {
    "Add": _add,
    "Absolute": _function(absolute),
    "Cast": _conversion,
    "Clip": _clip,
    "Concatenate": _concatenate,
    "ConvertToTensor": _conversion,
    "Divide": _divide,
    "Celu": _activation("celu", alpha=1.0),
    "Elu": _elu,
    "Exp": _activation("exponential"),
    "Gelu": _gelu,
    "GetItem": _get_item,
    "HardShrink": _activation("hard_shrink", threshold=0.5),
    "HardSigmoid": _activation("hard_sigmoid"),
    "HardSilu": _activation("hard_silu"),
    "HardTanh": _activation("hard_tanh"),
    "LeakyRelu": _leaky_relu,
    "LogSigmoid": _activation("log_sigmoid"),
    "Max": _max,
    "Maximum": _maximum,
    "Mean": _mean,
    "Minimum": _of_two,
    "Multiply": _multiply,
    "Negative": _negative,
    "Pad": _pad,
    "ReLU": _relu_function,
    "Relu": _relu,
    "Relu6": _relu6,
    "Reshape": _reshape,
    "Selu": _activation("selu"),
    "Sigmoid": _activation("sigmoid"),
    "Silu": _activation("silu"),
    "SoftShrink": _activation("soft_shrink", threshold=0.5),
    "Softmax": _softmax,
    "Subtract": _subtract,
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "SparsePlus": _activation("sparse_plus"),
    "SparseSigmoid": _activation("sparse_sigmoid"),
    "Square": _function(square),
    "Squareplus": _activation("squareplus", b=4),
    "Tanh": _activation("tanh"),
    "TanhShrink": _activation("tanh_shrink"),
    "Transpose": _transpose,
    "TrueDivide": _divide,
}
"""The class name of an operation in Keras -> the function that finds its layers."""
