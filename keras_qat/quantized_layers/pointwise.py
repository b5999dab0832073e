"""Functions of one number, such as tanh, with the same inference on every compiler."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers


class Pointwise(keras.layers.Layer):
    """Base of activation layers that infer in float64 and round to float32.

    The integer model has a table of the function's values. In float32 the last bits depend on the
    compiler, and so would table entries at ties. At scales that are powers of two, 34 of 1,000
    entries of an exponential differed. In float64 none of 870,400 differed.
    """

    def __init__(self, **kwargs: Any):
        kwargs["dtype"] = "float32"  # under every dtype policy: the layer is between quantizers
        super().__init__(**kwargs)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return super().call(inputs) if training else self._in_float64(inputs)

    @in_wide_numbers
    def _in_float64(self, inputs: Tensor) -> Tensor:
        return ops.cast(super().call(ops.cast(inputs, "float64")), "float32")


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeActivation(Pointwise, keras.layers.Activation):
    """`Activation` with a function of one number."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeELU(Pointwise, keras.layers.ELU):
    """`ELU` with any `alpha`."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeLeakyReLU(Pointwise, keras.layers.LeakyReLU):
    """`LeakyReLU` with any slope."""


class _PReLU(keras.layers.PReLU):
    def call(self, inputs: Tensor) -> Tensor:
        slope = ops.cast(as_tensor(self.alpha), inputs.dtype)
        return ops.relu(inputs) - slope * ops.relu(-inputs)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeSharedPReLU(Pointwise, _PReLU):
    """`PReLU` with one learned slope."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeReLU(Pointwise, keras.layers.ReLU):
    """`ReLU` with any limits and slope."""


@keras.saving.register_keras_serializable(package="keras_qat")
def approximate_gelu(x: Tensor) -> Tensor:
    """GELU by its formula with tanh, as `keras.ops.gelu` computes it by default."""
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_qat")
def absolute(x: Tensor) -> Tensor:
    """`|x|`, as an activation."""
    return ops.abs(x)


@keras.saving.register_keras_serializable(package="keras_qat")
def square(x: Tensor) -> Tensor:
    """`x**2`, as an activation."""
    return ops.square(x)
