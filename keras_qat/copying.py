"""Copies of layers by their configuration, and the functions that such a copy would lose."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import keras

_OF_TENSORFLOW = ("relu", "relu6", "sigmoid", "tanh")
"""Functions of `tf.nn` that compute what Keras' functions of that name do."""


def builtin_name(function: Any) -> str | None:
    """The name in `keras.activations` of what computes the same; `None` for any other function.

    The function itself decides, and not its name. `keras.ops.gelu` has another default than
    `keras.activations.gelu`.

    >>> def relu(x):
    ...     return 2 * x
    >>> builtin_name(keras.ops.relu), builtin_name(relu)
    ('relu', None)
    """
    name = getattr(function, "__name__", "")
    same = [getattr(keras.activations, name, None)]
    if name != "gelu":
        same.append(getattr(keras.ops, name, None))
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and name in _OF_TENSORFLOW:
        same.append(getattr(tensorflow.nn, name))
    return name if any(function is each for each in same) else None


def copy_of(layer: Any, kind: type | None = None, **changes: Any) -> Any:
    """A new layer of the same configuration, but for `changes`; unbuilt, without weights.

    Args:
        layer: the layer.
        kind: the class of the copy; that of the layer by default.
        **changes: entries of the configuration that differ.

    Raises:
        ValueError: a layer that cannot be made from its own configuration, or a function of the
            user's own that Keras cannot find again by its name: the copy, and any saved model,
            would have another function or none.
    """
    config = {**layer.get_config(), **changes}
    functions = {key: found for key in config if _is_function(found := getattr(layer, key, None))}
    kept = {key: found for key, found in functions.items() if key not in changes}
    try:
        copy = (kind or type(layer)).from_config(config)
    except Exception as error:
        lost = [key for key, found in kept.items() if not _is_from_keras(found)]
        if not lost:
            raise ValueError(
                f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied: its own "
                f"get_config() makes no layer. Take it out of the model. Received: {error}"
            ) from error
        raise _not_found_again(layer, lost[0]) from error
    for key, function in kept.items():
        if not _computes_the_same(getattr(copy, key, None), function):
            raise _not_found_again(layer, key)
    return copy


def _is_function(value: Any) -> bool:
    return inspect.isfunction(value)


def _is_from_keras(function: Any) -> bool:
    return builtin_name(function) is not None or function.__module__.startswith("keras.")


def _computes_the_same(copied: Any, function: Any) -> bool:
    name = builtin_name(function)
    return copied is function or (name is not None and builtin_name(copied) == name)


def _not_found_again(layer: Any, key: str) -> ValueError:
    function = getattr(layer, key)
    return ValueError(
        f"Layer {layer.name!r} ({type(layer).__name__}): its {key} is a function of your own, "
        f"{function.__name__!r}, that Keras does not find again by its name: a copy of the layer, "
        "or a saved model, would compute something else. Register the function, under a name with "
        "a package: @keras.saving.register_keras_serializable(package='mine'). "
        f"Received: {function!r}"
    )
