"""Pass: the `activation=` of a weight layer becomes a separate layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_qat.copying import copy_of
from keras_qat.quantization.passes.rewriting import Names, Part, Rewrite

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


def _applies(layer: Any) -> bool:
    return type(layer) in SPLIT_TYPES and layer.activation is not keras.activations.linear


def _parts(part: Part, names: Names) -> Iterator[Part]:
    layer = part.layer
    linear = copy_of(layer, activation="linear", activity_regularizer=None)
    yield dataclasses.replace(part, layer=linear)
    has_layer = isinstance(layer.activation, keras.layers.Layer)
    if has_layer:
        name = names.new(f"{layer.name}_{layer.activation.name}")
        yield Part(copy_of(layer.activation, name=name))
    else:
        suffix = getattr(layer.activation, "__name__", "activation")
        name = names.new(f"{layer.name}_{suffix}")
        regularizer = layer.activity_regularizer
        yield Part(
            keras.layers.Activation(layer.activation, name=name, activity_regularizer=regularizer)
        )
    if has_layer and layer.activity_regularizer is not None:
        yield Part(_regularizing(layer, names.new(f"{layer.name}_regularized")))


def _regularizing(layer: Any, name: str) -> Any:
    """An identity with the layer's regularizer, as the activation layer may have another one."""
    return keras.layers.Activation(
        "linear", name=name, activity_regularizer=layer.activity_regularizer
    )


SPLIT = Rewrite(_applies, _parts)
"""`Dense(10, activation="softmax", name="dense")` becomes `Dense(10, name="dense")` and
`Activation("softmax", name="dense_softmax")`. If the activation is a layer, it is copied. An
`activity_regularizer` moves behind the activation, so it sees the same values.
"""
