"""Keras privates: the precision in which the layers of a model compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

_HALF = ("bfloat16", "float16")
_FULL = keras.DTypePolicy("float32")


@contextlib.contextmanager
def full_precision(model: Any) -> Iterator[None]:
    """Layers of half precision compute in float32 meanwhile. A graph traced here keeps it.

    Policies and variables are untouched afterwards.

    >>> dense = keras.layers.Dense(1, dtype="mixed_float16")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> with full_precision(model):
    ...     inside = dense.compute_dtype
    >>> inside, dense.compute_dtype
    ('float32', 'float16')
    """
    halves = [layer for layer in model._flatten_layers() if layer.compute_dtype in _HALF]
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
