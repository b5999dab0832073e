"""Functions of one number, such as tanh, which inference computes alike wherever it runs."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.quantizers.custom_gradient import as_tensor

Tensor = Any

layers = keras.layers


class Pointwise(keras.layers.Layer):
    """Mixed into an activation layer: float64 in inference, rounded to float32.

    The integer model has a table of the function's values. In float32 two compilers differ in last
    bits, and where a value lies half way between two integers, so would the tables: at scales that
    are powers of two 34 of 1,000 entries of an exponential did. In float64 none of 870,400 did.
    JAX has no float64 by default and stays in float32.
    """

    def __init__(self, **kwargs: Any):
        kwargs["dtype"] = "float32"  # between two quantizers, whatever the policy
        super().__init__(**kwargs)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if training or keras.backend.backend() == "jax":
            return super().call(inputs)
        return ops.cast(super().call(ops.cast(inputs, "float64")), "float32")


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeActivation(Pointwise, layers.Activation):  # type: ignore[name-defined]
    """`Activation` of a function of one number."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeELU(Pointwise, layers.ELU):  # type: ignore[name-defined]
    """`ELU` with any `alpha`."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeLeakyReLU(Pointwise, layers.LeakyReLU):  # type: ignore[name-defined]
    """`LeakyReLU` with any slope."""


class _PReLU(layers.PReLU):  # type: ignore[name-defined]
    def call(self, inputs: Tensor) -> Tensor:
        slope = ops.cast(as_tensor(self.alpha), inputs.dtype)
        return ops.relu(inputs) - slope * ops.relu(-inputs)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeSharedPReLU(Pointwise, _PReLU):
    """`PReLU` with one slope, which is learned."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeReLU(Pointwise, layers.ReLU):  # type: ignore[name-defined]
    """`ReLU` with any limits and slope."""


@keras.saving.register_keras_serializable(package="keras_qat")  # type: ignore[untyped-decorator]
def approximate_gelu(x: Tensor) -> Tensor:
    """GELU by its formula with tanh: what `keras.ops.gelu` computes by default."""
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_qat")  # type: ignore[untyped-decorator]
def absolute(x: Tensor) -> Tensor:
    """`|x|`, as an activation."""
    return ops.abs(x)


@keras.saving.register_keras_serializable(package="keras_qat")  # type: ignore[untyped-decorator]
def square(x: Tensor) -> Tensor:
    """`x**2`, as an activation."""
    return ops.square(x)
