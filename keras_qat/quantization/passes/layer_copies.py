"""Copies of layers. A pass changes copies, never the user's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_qat.copying import copy_of, loses_something
from keras_qat.keras_graph import with_inner_layers
from keras_qat.quantized_layers import LivingLayer, QuantizeWrapper, WeightOnlyWrapper

StaysFloat = Callable[[str], bool]
"""Tells for a layer name whether the layer stays in float, and so stays as it is."""


def nothing_stays_float(name: str) -> bool:
    """The `StaysFloat` of a model without layers in float."""
    return False


def float_copy_of(layer: Any, **changes: Any) -> Any:
    """A copy of a layer that stays in float, or a `LivingLayer` if it has no faithful copy.

    Args:
        layer: the layer.
        **changes: entries of the configuration that differ: name and dtype.
    """
    if isinstance(layer, LivingLayer):
        return layer.again(**changes)
    try:
        copy = copy_of(layer, **changes)
    except ValueError:
        return LivingLayer(layer, **changes)
    wanted = changes.get("name", layer.name)
    lost = copy.name != wanted or any(
        loses_something(mine, others)
        for mine, others in zip(with_inner_layers(layer), with_inner_layers(copy), strict=False)
    )
    return LivingLayer(layer, **{"name": wanted, **changes}) if lost else copy


class LayerCopies:
    """One copy of each layer, for any number of calls.

    The copies get their weights in `copy_weights`, after a graph has built them.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any, Any]] = {}

    def of(self, layer: Any, make: Callable[[Any], Any] | None = None) -> Any:
        """The copy of a layer; `make(layer)` creates it the first time.

        A raw operation holds nothing that could change, and is returned itself.
        """
        if not isinstance(layer, keras.layers.Layer):
            return layer
        if id(layer) not in self._copies:
            copy = copy_of(layer) if make is None else make(layer)
            holder = copy.layer if isinstance(copy, QuantizeWrapper | WeightOnlyWrapper) else copy
            self._copies[id(layer)] = (layer, copy, holder)
        return self._copies[id(layer)][1]

    def copy_weights(self) -> None:
        """Gives every copy the weights of its layer, if both have as many."""
        for layer, _, holder in self._copies.values():
            if isinstance(holder, LivingLayer):
                continue  # it began with the values of its layer
            if len(layer.weights) == len(holder.weights):
                holder.set_weights(layer.get_weights())
            if isinstance(holder, keras.layers.Normalization):
                holder.finalize_state()  # the layer computes with a copy of its weights
