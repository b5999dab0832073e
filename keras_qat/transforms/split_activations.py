"""Pass: a weight layer's `activation=` becomes a layer of its own."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.copying import copy_of
from keras_qat.keras_graph import GraphNode, rebuild
from keras_qat.transforms.layer_copies import (
    LayerCopies,
    StaysFloat,
    nothing_stays_float,
    unused_name,
)

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


def split_activations(
    model: keras.Model, stays_float: StaysFloat = nothing_stays_float
) -> keras.Model:
    """The same function, with every weight layer linear; the model itself where all are.

    `Dense(10, activation="softmax", name="dense")` becomes `Dense(10, name="dense")` and
    `Activation("softmax", name="dense_softmax")`; a layer as `activation` is copied. An
    `activity_regularizer` moves behind the activation: it sees what it saw before.
    Layers that stay in float keep theirs.
    """

    def splits(layer: Any) -> bool:
        return _splits(layer) and not stays_float(layer.name)

    if not any(map(splits, model.layers)):
        return model
    copies, activations, regularized = LayerCopies(), LayerCopies(), LayerCopies()
    taken = {layer.name for layer in model.layers}

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        if not isinstance(layer, keras.layers.Layer):
            return layer(*args, **kwargs)
        if not splits(layer):
            return copies.of(layer)(*args, **kwargs)
        outputs = copies.of(layer, _linear)(*args, **kwargs)
        outputs = activations.of(layer, lambda layer: _activation(layer, taken))(outputs)
        if layer.activity_regularizer is None or not _has_layer(layer):
            return outputs
        return regularized.of(layer, lambda layer: _regularizing(layer, taken))(outputs)

    result = rebuild(model, call)
    copies.copy_weights()
    return result


def _splits(layer: Any) -> bool:
    return type(layer) in SPLIT_TYPES and layer.activation is not keras.activations.linear


def _linear(layer: Any) -> Any:
    return copy_of(layer, activation="linear", activity_regularizer=None)


def _activation(layer: Any, taken: set[str]) -> Any:
    if _has_layer(layer):
        own_name = unused_name(f"{layer.name}_{layer.activation.name}", taken)
        return copy_of(layer.activation, name=own_name)
    suffix = getattr(layer.activation, "__name__", "activation")
    name = unused_name(f"{layer.name}_{suffix}", taken)
    return keras.layers.Activation(
        layer.activation, name=name, activity_regularizer=layer.activity_regularizer
    )


def _has_layer(layer: Any) -> bool:
    return isinstance(layer.activation, keras.layers.Layer)


def _regularizing(layer: Any, taken: set[str]) -> Any:
    """An identity with the layer's regularizer: a layer as activation may have one of its own."""
    name = unused_name(f"{layer.name}_regularized", taken)
    return keras.layers.Activation(
        "linear", name=name, activity_regularizer=layer.activity_regularizer
    )
