"""Float64 and int64 in a traced graph, on every backend."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import keras

from keras_qat.tensors import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_wide_numbers(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets a function compute in float64 and int64 on JAX too, which cuts both to 32 bits.

    >>> @in_wide_numbers
    ... def third(x):
    ...     return keras.ops.cast(wide(x) / 3.0, "float32")
    >>> round(float(third(keras.ops.array(1.0))), 4)
    0.3333
    """
    if keras.backend.backend() != "jax":
        return function
    jax: Any = importlib.import_module("jax")
    if not hasattr(jax, "enable_x64"):  # in older versions
        jax = importlib.import_module("jax.experimental")

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return call


def wide(x: Any) -> Tensor:
    """`x` in float64, for callers in wide numbers."""
    return keras.ops.cast(x, "float64")
