"""Raw operations that take a mean, a sum or a maximum over axes, as layers."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode
from keras_qat.quantization.passes.recipes import NOTHING, Chain
from keras_qat.quantized_layers import ArgMax

layers = keras.layers

Arguments = tuple[Any, ...]
Options = dict[str, Any]

_AVERAGES = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)
_MAXIMA = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)


def mean(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return _reduction(node, *_AVERAGES)


def total(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A sum: the mean, times the number of values."""
    chain, axes = _reduction(node, *_AVERAGES), _axes(node)
    if chain is None or axes is None:
        return None
    count = math.prod(node.inputs[0].shape[axis] for axis in axes)
    return [*chain, (layers.Rescaling, {"scale": float(count)})] if count > 1 else chain


def maximum(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    if getattr(node.operation, "initial", None) is not None:
        return None
    return _reduction(node, *_MAXIMA)


def argmax(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    axis, rank = node.operation.axis, len(node.inputs[0].shape)
    if node.operation.keepdims or axis is None or axis % rank == 0:
        return None
    return [(ArgMax, {"axis": axis % rank})]


def _axes(node: GraphNode) -> list[int] | None:
    """The axes, from the least on; `None` if examples are among them."""
    given, rank = node.operation.axis, len(node.inputs[0].shape)
    axes = given if isinstance(given, tuple | list) else (given,)
    if None in axes or any(axis % rank == 0 for axis in axes):
        return None
    return sorted({axis % rank for axis in axes})


def _reduction(node: GraphNode, over_sequence: type, over_image: type) -> Chain | None:
    """A global pooling. Axes that it does not pool over are first brought to its places."""
    axes, shape = _axes(node), node.inputs[0].shape
    if axes is None:
        return None
    if not axes:
        return NOTHING
    place = (len(shape), tuple(axes))
    known = {(3, (1,)): over_sequence, (4, (1, 2)): over_image}.get(place)
    if known is not None:
        return [(known, {"keepdims": bool(node.operation.keepdims)})]
    if None in shape[1:]:
        return None
    kept = [axis for axis in range(1, len(shape)) if axis not in axes]
    order = (*axes, *kept)
    chain: Chain = []
    if order != tuple(range(1, len(shape))):
        chain.append((layers.Permute, {"dims": order}))
    sizes = tuple(math.prod(shape[axis] for axis in group) for group in (axes, kept))
    chain += [(layers.Reshape, {"target_shape": sizes}), (over_sequence, {})]
    result = tuple(node.outputs[0].shape[1:])
    return chain if result == sizes[1:] else [*chain, (layers.Reshape, {"target_shape": result})]


def pooling(over_sequence: type, over_image: type) -> Any:
    """`max_pool` or `average_pool` over a sequence or an image."""

    def find(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
        operation = node.operation
        kind = {3: over_sequence, 4: over_image}.get(len(node.inputs[0].shape))
        known = (operation.data_format or keras.config.image_data_format()) == "channels_last"
        if kind is None or not known:
            return None
        options = {"pool_size": operation.pool_size, "padding": operation.padding}
        return [(kind, {**options, "strides": operation.strides})]

    return find
