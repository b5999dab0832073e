"""Float64 and int64 in a traced graph, on every backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import keras

_F = TypeVar("_F", bound=Callable[..., Any])


def in_wide_numbers(function: _F) -> _F:
    """Lets a function compute in float64 and int64 on JAX too, which cuts both to 32 bits.

    >>> @in_wide_numbers
    ... def third(x):
    ...     return keras.ops.cast(keras.ops.cast(x, "float64") / 3.0, "float32")
    >>> round(float(third(keras.ops.array(1.0))), 4)
    0.3333
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    enable_x64: Any = getattr(jax, "enable_x64", None)
    if enable_x64 is None:
        enable_x64 = _of_older_versions()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with enable_x64(True):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _of_older_versions() -> Any:
    import jax.experimental

    return getattr(jax.experimental, "enable_x64")  # noqa: B009 - its types do not list it
