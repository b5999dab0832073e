"""Keras privates: the precision in which the layers of a model compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

_HALF = ("bfloat16", "float16")
MIXED = tuple(f"mixed_{name}" for name in _HALF)
"""The policies in which layers compute in half precision, with variables in float32."""
_FULL = keras.DTypePolicy("float32")


def full_precision(model: Any) -> contextlib.AbstractContextManager[None]:
    """A model and all layers in it compute in float32 inside the context.

    A graph that is traced there keeps it. Policies and variables are the same afterwards.

    >>> dense = keras.layers.Dense(1, dtype="mixed_float16")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> with full_precision(model):
    ...     inside = dense.compute_dtype
    >>> inside, dense.compute_dtype
    ('float32', 'float16')
    """
    return in_float32(model._flatten_layers())


@contextlib.contextmanager
def in_float32(layers: Iterable[Any]) -> Iterator[None]:
    """These layers compute in float32 inside the context, if they compute in half precision."""
    halves = [layer for layer in layers if layer.compute_dtype in _HALF]
    policies = [layer._dtype_policy for layer in halves]
    try:
        for layer in halves:
            layer._dtype_policy = _FULL
        yield
    finally:
        for layer, policy in zip(halves, policies, strict=True):
            layer._dtype_policy = policy


def trains(layer: keras.layers.Layer, arguments: dict[str, Any]) -> bool:
    """Whether a call of `layer` with these keyword arguments, which now begins, is for training."""
    told = arguments.get("training")
    return bool(layer._get_call_context().get_value("training") if told is None else told)
