"""Pass: a sum or product of many tensors becomes a chain of two at a time; an average a sum."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, nodes, rebuild
from keras_qat.rules import UnsupportedLayerError
from keras_qat.transforms.layer_copies import LayerCopies, copy_of, unused_name

layers = keras.layers

CHAINED_TYPES = (layers.Add, layers.Multiply, layers.Maximum, layers.Minimum)


def chain_merges(model: keras.Model) -> keras.Model:
    """The same function, with two tensors in every merge; else the model itself.

    `Add(name="sum")([a, b, c, d])` becomes `"sum_partial"`, `"sum_partial_1"` and `"sum"`, the
    order in which Keras adds. `Average(name="mean")([a, b])` becomes the `Add` `"mean_partial"`
    and the `Rescaling` `"mean"` by 1/2.

    Raises:
        UnsupportedLayerError: an `Average` that is called with one and another count of tensors.
    """
    parts = _parts(model)
    if not parts:
        return model
    copies = LayerCopies()
    made: dict[str, Any] = {}

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        if layer.name not in parts:
            return copies.of(layer)(*args, **kwargs)
        total, *others = args[0]
        for name in parts[layer.name][: _chain_length(node)]:
            if name not in made:
                made[name] = _part(layer, name)
            total = made[name]([total, others.pop(0)])
        if type(layer) is layers.Average:
            return copies.of(layer, lambda layer: _division(layer, node))(total)
        return copies.of(layer)([total, *others])

    result = rebuild(model, call)
    copies.copy_weights()
    return result


def chain_origins(model: keras.Model) -> dict[str, str]:
    """Which layer of `model` each layer that the pass adds comes from, by name."""
    return {part: name for name, parts in _parts(model).items() for part in parts}


def _parts(model: keras.Model) -> dict[str, list[str]]:
    """Names of the layers to put before a layer that is chained, by its name."""
    taken = {layer.name for layer in model.layers}
    found: dict[str, list[str]] = {}
    lengths: dict[str, set[int]] = {}
    for node in nodes(model):
        name, length = node.operation.name, _chain_length(node)
        lengths.setdefault(name, set()).add(length)
        if type(node.operation) is layers.Average and len(lengths[name]) > 1:
            raise UnsupportedLayerError(
                f"{name!r} (Average): it is called with several counts of tensors; use one layer "
                f"for each. Received: {sorted(each + 1 for each in lengths[name])}"
            )
        while length > len(found.get(name, [])):
            found.setdefault(name, []).append(unused_name(f"{name}_partial", taken))
    return found


def _chain_length(node: GraphNode) -> int:
    """How many layers of two tensors come before the one that keeps the name."""
    if type(node.operation) is layers.Average:
        return len(node.inputs) - 1
    return len(node.inputs) - 2 if type(node.operation) in CHAINED_TYPES else 0


def _part(layer: Any, name: str) -> Any:
    if type(layer) is layers.Average:
        return layers.Add(name=name, dtype=layer.dtype_policy)
    return copy_of(layer, name=name)


def _division(layer: Any, node: GraphNode) -> Any:
    return layers.Rescaling(1.0 / len(node.inputs), name=layer.name, dtype=layer.dtype_policy)
