"""Finds the code of the user's that the file of a model needs, before the file is written."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.copying import code_of_the_user, quiet_about_lambdas
from keras_qat.keras_graph import GraphNode, nodes, with_inner_layers
from keras_qat.quantized_layers import LivingBranch, LivingIdentity, LivingLayer
from keras_qat.training.backend_state import restored

_CHECKED: weakref.WeakSet[keras.Model] = weakref.WeakSet()
_UNSAFE = (keras.layers.Lambda, keras.layers.TFSMLayer)
_LARGEST_DIFFERENCE = 1e-5
_LONGEST = 200


def check_file(model: keras.Model, code: Sequence[Any] = (), lost: Sequence[str] = ()) -> None:
    """Warns once of the code that loading a file of the model will need.

    Args:
        model: the model.
        code: classes and objects besides the layers that it needs.
        lost: the names of attributes that the file will not hold.

    Raises:
        ValueError: a layer that no file can state, so that a loaded model would not have it, or
            would have another one.
    """
    if model in _CHECKED:
        return
    own: dict[str, Any] = dict(_unregistered(code))
    unsafe: dict[str, None] = {}
    for node in nodes(model):
        layer = getattr(node.operation, "held", node.operation)
        if not isinstance(layer, keras.layers.Layer):
            continue
        found = dict(_own_code(layer))
        for name, value in found.items():
            if own.setdefault(name, value) is not value:
                raise _not_in_a_file(node, f"two objects of your own have the name {name!r}")
        held = any(map(code_of_the_user, with_inner_layers(layer)))
        lambdas = any(isinstance(each, _UNSAFE) for each in with_inner_layers(layer))
        if (held or lambdas) and _needs_unsafe(layer, found):
            unsafe[layer.name] = None
        is_living = isinstance(node.operation, LivingLayer)
        if node.call_index == 0 and (found or held or is_living):
            _check_loaded(node, layer, found, layer.name in unsafe)
    _CHECKED.add(model)
    _warn(model, own, list(unsafe))
    if lost:
        warnings.warn(
            f"The file of the model {model.name!r} does not hold its attributes "
            f"{', '.join(map(repr, lost))}, which its training steps read. Set them on the loaded "
            "model before you train it.",
            stacklevel=3,
        )


def refuse_hdf5(model: keras.Model, path: Any) -> None:
    """Raises a `ValueError` for a path that Keras would write in its old format of whole models."""
    if str(path).endswith((".h5", ".hdf5")):
        raise ValueError(
            f"Model {model.name!r} cannot be saved as HDF5: this old format of Keras does not hold "
            f"the grids, and no loader gives the model back. Received: {str(path)!r}. Save it as "
            "'model.keras', or the weights alone with save_weights('model.weights.h5')."
        )


def _warn(model: keras.Model, own: dict[str, Any], unsafe: list[str]) -> None:
    needed = []
    if own:
        listing = ", ".join(f"{name!r}: {name}" for name in own)
        needed.append(f"custom_objects={{{listing}}}")
    if unsafe:
        needed.append(f"safe_mode=False (for {', '.join(map(repr, unsafe))})")
    if needed:
        registering = (
            " Classes and functions that are registered with "
            "@keras.saving.register_keras_serializable(package='mine') need no custom_objects."
        )
        warnings.warn(
            f"The file of the model {model.name!r} does not hold code of your own. To load it, "
            f"pass {' and '.join(needed)} to keras_qat.load_model.{registering if own else ''}",
            stacklevel=4,
        )


def _own_code(layer: Any) -> Iterator[tuple[str, Any]]:
    """The classes and functions of the user's in a layer that are not registered, by name."""
    for inner in with_inner_layers(layer):
        yield from _unregistered([inner, *code_of_the_user(inner).values()])


def _unregistered(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The functions and classes, of objects too, that Keras cannot find by name."""
    for value in values:
        code = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
        ours = f"{code.__module__}.".startswith(("keras.", "keras_qat.", "builtins.", "numpy."))
        if code.__name__ != "<lambda>" and not ours and not _is_registered(code):
            yield code.__name__, code


def _is_registered(code: Any) -> bool:
    name = keras.saving.get_registered_name(code)
    return keras.saving.get_registered_object(name) is code


def _needs_unsafe(layer: Any, own: dict[str, Any]) -> bool:
    """Whether Keras makes a layer of lambdas from its configuration in unsafe mode alone."""
    for safe_mode in (True, False):
        try:
            _again(layer, own, safe_mode)
        except Exception:  # Keras refuses it with errors of several types
            continue
        return not safe_mode
    return False


def _again(layer: Any, own: dict[str, Any], safe_mode: bool) -> Any:
    """The layer from its configuration, as a file would give it."""
    with keras.saving.custom_object_scope(own), quiet_about_lambdas():
        config = keras.saving.serialize_keras_object(layer)
        return keras.saving.deserialize_keras_object(config, safe_mode=safe_mode)


def _check_loaded(node: GraphNode, layer: Any, own: dict[str, Any], unsafe: bool) -> None:
    """Raises ValueError unless a file gives a layer back."""
    try:
        loaded = _again(layer, own, safe_mode=not unsafe)
    except Exception as error:  # get_config and from_config of a user may raise anything
        raise _not_in_a_file(node, f"{type(error).__name__}: {_short(error)}") from error
    for mine, others in zip(with_inner_layers(layer), with_inner_layers(loaded), strict=False):
        for name, value in code_of_the_user(mine).items():
            other = vars(others).get(name)
            if _code_of(other) is not _code_of(value):
                raise _not_in_a_file(node, f"its {name} would be {other!r} instead of {value!r}")
    if isinstance(node.operation, LivingLayer) and not _computes_the_same(node, loaded):
        raise _not_in_a_file(node, "what its get_config() states computes something else")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _code_of(value: Any) -> Any:
    """A function itself, or the class of an object; a lambda that was loaded has its own code."""
    if not inspect.isfunction(value):
        return type(value)
    return value.__code__ if value.__name__ == "<lambda>" else value


def _computes_the_same(node: GraphNode, loaded: Any) -> bool:
    """Whether a layer that was made from its configuration answers as the living one does."""
    rng = np.random.default_rng(0)
    values = {id(tensor): _sample(tensor, rng) for tensor in node.inputs}
    args, kwargs = node.fill_in(values)
    layer = node.operation
    mode = isinstance(layer, LivingBranch | LivingIdentity)  # they compute in training alone
    with restored(layer.variables):
        try:
            expected = layer(*args, **{**kwargs, "training": mode})
        except Exception:  # random values may be out of the range that it takes
            return True
    other = layer.again(loaded)
    try:
        other(*args, **{**kwargs, "training": mode})
        for mine, variable in zip(layer.variables, other.variables, strict=True):
            variable.assign(mine)
        found = other(*args, **{**kwargs, "training": mode})
    except Exception:  # its configuration says too little
        return False
    pairs = zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True)
    return all(_close(*map(ops.convert_to_numpy, pair)) for pair in pairs)


def _close(expected: Any, found: Any) -> bool:
    same = expected.shape == found.shape
    return same and bool(np.allclose(expected, found, _LARGEST_DIFFERENCE, _LARGEST_DIFFERENCE))


def _sample(tensor: Any, rng: np.random.Generator) -> Any:
    shape = [2 if size is None else size for size in tensor.shape]
    if not keras.backend.is_float_dtype(tensor.dtype):
        return ops.zeros(shape, tensor.dtype)
    return ops.cast(rng.normal(size=shape), tensor.dtype)


def _not_in_a_file(node: GraphNode, reason: str) -> ValueError:
    layer = getattr(node.operation, "held", node.operation)
    return ValueError(
        f"Layer {node.operation.name!r} ({type(layer).__name__}) cannot be saved: no file would "
        f"give it back. Received: {reason}. Write its get_config() and from_config(), and "
        "functions with names of their own that are registered with "
        "@keras.saving.register_keras_serializable(package='mine'). "
        "Or save the weights alone with save_weights(), which the quantized model loads again."
    )
