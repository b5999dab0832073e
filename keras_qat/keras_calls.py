"""Keras privates: whose call is running, and calls that add no losses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


def outer_layer(layer: keras.layers.Layer) -> Any:
    """The outermost layer whose call is running when `layer.__call__` begins; `None` without one.

    If no call is running, Keras registers the call of `layer` here instead of a moment later.
    """
    outermost = layer._get_call_context().entry_layer
    return None if outermost is layer else outermost


@contextlib.contextmanager
def adding_no_losses(model: keras.Model) -> Iterator[None]:
    """Calls of a model's layers add no losses inside the context, of activities or their own.

    >>> inputs = keras.Input((2,))
    >>> outputs = keras.layers.ActivityRegularization(l2=1.0)(inputs)
    >>> model = keras.Model(inputs, outputs)
    >>> with adding_no_losses(model):
    ...     outputs = model(keras.ops.ones((1, 2)))
    >>> len(model.losses)
    0
    """
    layers = model._flatten_layers()
    for layer in layers:
        object.__setattr__(layer, "add_loss", _ignored)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("add_loss", None)


def _ignored(loss: Any) -> None:
    """Stands for `add_loss`."""
