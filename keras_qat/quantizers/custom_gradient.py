"""The one decorator through which every quantizer states its own gradient."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras

Tensor = Any
GradientFunction = Callable[[Tensor], tuple[Tensor, ...]]


def custom_gradient(
    function: Callable[..., tuple[Tensor, GradientFunction]],
) -> Callable[..., Tensor]:
    """Makes `function(*tensors) -> (output, gradient)` differentiable by its own `gradient`.

    `gradient(upstream)` returns one gradient for each argument. On TensorFlow this is
    `tf.custom_gradient`, on JAX `jax.custom_gradient`. Arguments may be variables: they are read
    into tensors first, because TensorFlow refuses raw variables here in eager mode.

    >>> import keras
    >>> @custom_gradient
    ... def round_straight_through(x):
    ...     return keras.ops.round(x), lambda upstream: (upstream,)
    >>> float(round_straight_through(2.6))
    3.0
    """
    differentiable = keras.ops.custom_gradient(_with_backend_gradient(function))

    @functools.wraps(function)
    def call(*tensors: Any) -> Tensor:
        return differentiable(*(as_tensor(tensor) for tensor in tensors))

    return call


def _with_backend_gradient(
    function: Callable[..., tuple[Tensor, GradientFunction]],
) -> Callable[..., tuple[Tensor, Callable[..., tuple[Tensor, ...]]]]:
    def with_gradient(*tensors: Tensor) -> tuple[Tensor, Callable[..., tuple[Tensor, ...]]]:
        output, gradient = function(*tensors)

        def backend_gradient(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, ...]:
            upstream = args[0] if upstream is None else upstream
            with _after(upstream):
                return gradient(upstream)

        return output, backend_gradient

    return with_gradient


def _after(upstream: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Where nothing of a backward pass is computed before its upstream gradient is there.

    TensorFlow computes whatever it can: what a backward pass makes of `x` and `x_hat` alone, it
    would make right in the forward pass, and keep for all layers at once.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    context: contextlib.AbstractContextManager[Any] = tf.control_dependencies([upstream])
    return context


def as_tensor(value: Any) -> Tensor:
    """A plain tensor of the value; variables are read."""
    if not isinstance(value, keras.Variable):
        return keras.ops.convert_to_tensor(value)
    if keras.backend.backend() != "tensorflow":
        return keras.ops.copy(value.value)
    import tensorflow as tf

    return tf.convert_to_tensor(value.value)  # a copy would be one node more for every read
