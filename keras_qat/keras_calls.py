"""Keras privates: whose call is running."""

from __future__ import annotations

from typing import Any

import keras


def outer_layer(layer: keras.layers.Layer) -> Any:
    """The outermost layer whose call is running when `layer.__call__` begins; `None` without one.

    If no call is running, Keras registers the call of `layer` here instead of a moment later.
    """
    outermost = layer._get_call_context().entry_layer
    return None if outermost is layer else outermost
