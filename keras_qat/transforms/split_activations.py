"""Pass: a weight layer's `activation=` becomes a layer of its own."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, rebuild
from keras_qat.transforms.layer_copies import LayerCopies, copy_of, unused_name

SPLIT_TYPES = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def split_activations(model: keras.Model) -> keras.Model:
    """The same function, with every weight layer linear.

    `Dense(10, activation="softmax", name="dense")` becomes `Dense(10, name="dense")` and
    `Activation("softmax", name="dense_softmax")`.
    """
    copies, activations = LayerCopies(), LayerCopies()
    taken = {layer.name for layer in model.layers}

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        if not isinstance(layer, keras.layers.Layer):
            return layer(*args, **kwargs)
        if type(layer) not in SPLIT_TYPES or layer.activation is keras.activations.linear:
            return copies.of(layer)(*args, **kwargs)
        outputs = copies.of(layer, _linear)(*args, **kwargs)
        return activations.of(layer, lambda layer: _activation(layer, taken))(outputs)

    result = rebuild(model, call)
    copies.copy_weights()
    return result


def _linear(layer: Any) -> Any:
    return copy_of(layer, activation="linear")


def _activation(layer: Any, taken: set[str]) -> Any:
    suffix = getattr(layer.activation, "__name__", "activation")
    name = unused_name(f"{layer.name}_{suffix}", taken)
    return keras.layers.Activation(layer.activation, name=name)
