"""Copies of layers by their configuration, and the functions that such a copy would lose."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import keras

from keras_qat.keras_graph import with_inner_layers

_OF_TENSORFLOW = ("elu", "relu", "relu6", "selu", "sigmoid", "softplus", "softsign", "tanh")
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
            user's own, in the layer or in one inside it, that Keras cannot find again by its name:
            the copy, and any saved model, would have another function or none.
    """
    config = {**config_of(layer), **changes}
    try:
        make: Any = kind or type(layer)
        copy = make.from_config(config)
    except Exception as error:
        for attribute, function in _functions(layer).items():
            if attribute not in changes and not _is_from_keras(function):
                raise _not_found_again(layer, attribute, function) from error
        raise _no_copy(layer, error) from error
    for mine, others in zip(with_inner_layers(layer), with_inner_layers(copy), strict=False):
        copied = _functions(others)
        for attribute, function in _functions(mine).items():
            given = mine is layer and attribute in changes
            if not given and not _computes_the_same(copied.get(attribute), function):
                raise _not_found_again(mine, attribute, function)
    return copy


def config_of(layer: Any) -> dict[str, Any]:
    """The layer's configuration.

    Raises:
        ValueError: it has none.
    """
    try:
        config: dict[str, Any] = layer.get_config()
    except Exception as error:
        raise _no_copy(layer, error) from error
    return config


def _no_copy(layer: Any, error: Exception) -> ValueError:
    return ValueError(
        f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied: its get_config() and "
        "from_config() do not make it again. Write these two, or take the layer out of the model. "
        f"Received: {type(error).__name__}: {error}"
    )


def _functions(layer: Any) -> dict[str, Any]:
    """The functions that a layer holds, but for those that Keras puts in the place of methods."""
    return {
        name: value
        for name, value in vars(layer).items()
        if inspect.isfunction(value) and not hasattr(type(layer), name)
    }


def _is_from_keras(function: Any) -> bool:
    return builtin_name(function) is not None or function.__module__.startswith("keras.")


def _computes_the_same(copied: Any, function: Any) -> bool:
    name = builtin_name(function)
    return copied is function or (name is not None and builtin_name(copied) == name)


def _not_found_again(layer: Any, attribute: str, function: Any) -> ValueError:
    return ValueError(
        f"Layer {layer.name!r} ({type(layer).__name__}): its {attribute.lstrip('_')} is a function "
        f"of your own, {function.__name__!r}, that Keras does not find again by its name: a copy "
        "of the layer, or a saved model, would compute something else. Register the function, "
        "under a name with a package: @keras.saving.register_keras_serializable(package='mine'). "
        f"Received: {function!r}"
    )
