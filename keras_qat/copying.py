"""Copies layers by their configuration, and refuses copies that would lose something."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import with_inner_layers

_OF_TENSORFLOW = ("elu", "relu", "relu6", "selu", "sigmoid", "softplus", "softsign", "tanh")
"""Functions of `tf.nn` that compute the same as the Keras function with that name."""

_LONGEST = 400


def builtin_name(function: Any) -> str | None:
    """The name in `keras.activations` of a function that computes the same; `None` without one.

    The function itself is compared, not only its name. `keras.ops.gelu` is not
    `keras.activations.gelu`, because their defaults differ.

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
    """A new, unbuilt layer with the same configuration, except for `changes`.

    Functions and objects that the user wrote, such as a constraint, need no registration: if Keras
    cannot make them anew, the copy of a Keras layer holds the same ones.

    Args:
        layer: the layer.
        kind: the class of the copy; by default the class of the layer.
        **changes: entries of the configuration that differ.

    Raises:
        ValueError: the layer cannot be made from its configuration. Or a layer inside it holds a
            function that the user wrote and that Keras cannot find by its name: the copy would
            have another function or none.
    """
    if hasattr(layer, "again"):  # a `LivingLayer` knows how
        return layer.again(**changes)
    try:
        return _copy_of(layer, kind, changes)
    except ValueError:
        if not (held := _held_objects(layer)):
            raise
        return _copy_of(layer, kind, {**held, **changes})


def _copy_of(layer: Any, kind: type | None, changes: dict[str, Any]) -> Any:
    make: Any = kind or type(layer)
    with _set_aside(layer, changes):
        config = {**config_of(layer, make if isinstance(layer, make) else None), **changes}
    try:
        safe = "safe_mode" in inspect.signature(make.from_config).parameters
        options = {"safe_mode": False} if safe else {}  # this process made the layer
        copy = make.from_config(config, **options)
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


@contextlib.contextmanager
def _set_aside(layer: Any, names: Iterable[str]) -> Iterator[None]:
    """A layer without the user's functions and objects of these names, which may not serialize."""
    held = {name: vars(layer)[name] for name in names if is_of_the_user(vars(layer).get(name))}
    try:
        for name in held:
            setattr(layer, name, keras.activations.linear if name == "activation" else None)
        yield
    finally:
        for name, value in held.items():
            setattr(layer, name, value)


def loses_something(layer: Any, copy: Any) -> bool:
    """Whether a copy has another name than its layer, or another plain value of an attribute.

    This happens to a class whose `get_config` does not state all arguments of its constructor.
    """
    if type(layer).__module__.startswith("keras."):
        return False
    mine, others = vars(layer), vars(copy)
    both = [name for name in mine if name in others and not name.startswith("_")]
    ours = ("built", "dtype_policy")
    return any(
        _is_plain(mine[name]) and not _equal(mine[name], others[name])
        for name in both
        if name not in ours
    )


def _is_plain(value: Any) -> bool:
    plain = (bool, int, float, str, tuple, np.ndarray, type(None))
    return isinstance(value, plain)


def _equal(value: Any, other: Any) -> bool:
    try:
        return type(value) is type(other) and bool(np.all(np.asarray(value == other)))
    except Exception:  # values of classes that do not compare
        return False


def config_of(layer: Any, kind: type | None = None) -> dict[str, Any]:
    """The configuration of a layer.

    Args:
        layer: the layer.
        kind: its class, or the base whose options are wanted.

    Raises:
        ValueError: the layer's `get_config` fails.
    """
    stated: Any = type(layer) if kind is None else kind
    try:
        with quiet_about_lambdas():
            config: dict[str, Any] = stated.get_config(layer)
    except Exception as error:
        raise _no_copy(layer, error) from error
    return config


@contextlib.contextmanager
def quiet_about_lambdas() -> Iterator[None]:
    """Silences Keras' warning about a lambda in a configuration that no file gets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        yield


def _held_objects(layer: Any) -> dict[str, Any]:
    """The entries of a Keras layer's configuration that are functions or objects of the user's."""
    if not type(layer).__module__.startswith(("keras.", "keras_qat.")):
        return {}
    try:
        names: Any = layer.get_config()
    except Exception:  # of an object that cannot state its own configuration
        names = inspect.signature(type(layer).__init__).parameters
    found = {name: getattr(layer, name, None) for name in names}
    return {name: value for name, value in found.items() if is_of_the_user(value)}


def code_of_the_user(layer: Any) -> dict[str, Any]:
    """The functions and callable objects that a layer holds and that are not from Keras."""
    if type(layer) is keras.layers.TFSMLayer:  # it holds functions of TensorFlow
        return {}
    return {
        name: value
        for name, value in vars(layer).items()
        if is_of_the_user(value) and not hasattr(type(layer), name)
    }


def is_of_the_user(value: Any) -> bool:
    """Whether a value is a function or a callable object that is not from Keras.

    >>> is_of_the_user(lambda x: x), is_of_the_user(keras.activations.relu)
    (True, False)
    """
    if not callable(value) or isinstance(value, type | keras.layers.Layer):
        return False
    if inspect.isfunction(value):
        return not _is_from_keras(value)
    return not type(value).__module__.startswith(("keras.", "keras_qat."))


def _no_copy(layer: Any, error: Exception) -> ValueError:
    received = f"{type(error).__name__}: {error}"
    if len(received) > _LONGEST:  # Keras prints whole arrays of a configuration
        received = f"{received[: _LONGEST // 2]} ... {received[-_LONGEST // 2 :]}"
    return ValueError(
        f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied with its get_config() and "
        f"from_config(). Received: {received}. Correct these two methods, or take the layer out of "
        "the model."
    )


def _functions(layer: Any) -> dict[str, Any]:
    """The functions that a layer holds, except methods that Keras has replaced by functions."""
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
        f"of your own, {function.__name__!r}, that Keras cannot find by its name. A copy of the "
        "layer, or a saved model, would compute something else. Register the function with a "
        "package: @keras.saving.register_keras_serializable(package='mine'). "
        f"Received: {function!r}"
    )
