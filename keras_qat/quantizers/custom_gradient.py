"""The one decorator through which every quantizer states its own gradient."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_qat.tensors import Tensor

GradientFunction = Callable[[Tensor], tuple[Tensor, ...]]


def custom_gradient(
    function: Callable[..., tuple[Tensor, GradientFunction]],
) -> Callable[..., Tensor]:
    """Gives `function(*tensors) -> (output, gradient)` the gradient that it returns.

    `gradient(upstream)` returns one gradient for each argument. TensorFlow uses
    `tf.custom_gradient`, JAX `jax.custom_gradient`. Arguments may be variables: they are read
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
    """A context in which TensorFlow waits for the upstream gradient before it computes anything.

    TensorFlow starts every operation as soon as its inputs exist. Without this context it computes
    the parts of the backward pass that need only `x` and `x_hat` during the forward pass, and keeps
    the results of all layers in memory at once.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    context: contextlib.AbstractContextManager[Any] = tf.control_dependencies([upstream])
    return context


def as_tensor(value: Any) -> Tensor:
    """The value as a plain tensor; a variable is read."""
    if not isinstance(value, keras.Variable):
        return keras.ops.convert_to_tensor(value)
    if keras.backend.backend() != "tensorflow":
        return keras.ops.copy(value.value)
    import tensorflow as tf

    return tf.convert_to_tensor(value.value)  # a copy would add a node for every read
