"""`ArgMax`: the index of the largest value, as the last layer of a model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_qat")
class ArgMax(keras.layers.Layer):
    """`keras.ops.argmax(x, axis)`: of several equal values, the first. Nothing trains through it.

    Args:
        axis: the axis, counted with the batch. It is never the batch, axis 0.

    >>> [int(x) for x in ArgMax(axis=1)(ops.array([[5.0, 7.0, 7.0]]))]
    [1]
    """

    def __init__(self, axis: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = int(axis)

    def call(self, x: Tensor) -> Tensor:
        # Keras takes -0.0 for less than 0.0. On a grid both are one integer.
        x = ops.where(ops.equal(x, 0.0), ops.zeros_like(x), x)
        return ops.cast(ops.argmax(x, axis=self.axis), "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
