"""Subclasses of Keras layers that compute what their base computes."""

from __future__ import annotations

from typing import Any

import keras

_OF_ANY_CLASS = frozenset(
    (
        *("__annotations__", "__doc__", "__firstlineno__", "__init__", "__module__"),
        *("__orig_bases__", "__parameters__", "__qualname__", "__repr__"),
        *("__static_attributes__", "__str__", "compute_output_shape", "from_config"),
        "get_config",
    )
)
"""What a class can define and still compute what its base computes."""


def computing_kind(layer: Any) -> type:
    """The Keras class whose `build` and `call` a layer has; its own class if it changes them.

    A subclass that adds methods under new names computes what its base computes.

    >>> computing_kind(keras.layers.Dense(1)).__name__
    'Dense'
    """
    own: list[type] = []
    for kind in type(layer).__mro__:
        if kind.__module__.startswith(("keras.", "keras_qat.")):
            inherits = not any(_changes(each, kind) for each in own)
            return kind if inherits and issubclass(kind, keras.layers.Layer) else type(layer)
        own.append(kind)
    return type(layer)


def _changes(kind: type, base: type) -> bool:
    return any(hasattr(base, name) and name not in _OF_ANY_CLASS for name in vars(kind))
