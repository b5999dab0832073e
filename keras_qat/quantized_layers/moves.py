"""Layers that take the place of raw operations which move values, or change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_qat.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_qat")
class Take(keras.layers.Layer):
    """`keras.ops.take(x, indices, axis)` with constant indices: GATHER in runtimes.

    Each place of one axis can be taken any number of times, in any order.

    Args:
        indices: the places, from 0 on.
        axis: the axis, counted with the batch. It is never the batch, axis 0.

    >>> [int(x) for x in Take([2, 0, 0], axis=1)(keras.ops.array([[5, 6, 7]]))[0]]
    [7, 5, 5]
    """

    def __init__(self, indices: Sequence[int], axis: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.indices = tuple(int(index) for index in indices)
        self.axis = int(axis)

    def call(self, x: Tensor) -> Tensor:
        return ops.take(x, list(self.indices), axis=self.axis)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "indices": list(self.indices), "axis": self.axis}


@keras.saving.register_keras_serializable(package="keras_qat")
class StopGradient(keras.layers.Layer):
    """`keras.ops.stop_gradient`: nothing is learned through it. In inference it does nothing."""

    def call(self, x: Tensor) -> Tensor:
        return ops.stop_gradient(x)


@keras.saving.register_keras_serializable(package="keras_qat")
class CastTo(keras.layers.Layer):
    """`keras.ops.cast(x, dtype)` to a float type. The integers behind it stay the same.

    Args:
        target: the name of the type.
    """

    def __init__(self, target: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.target = target

    def call(self, x: Tensor) -> Tensor:
        return ops.cast(x, self.target)

    @classmethod
    def between_grids(cls, layer: CastTo) -> CastTo:
        """The layer of a quantized model, in which everything between grids is float32."""
        return cls("float32", name=layer.name, dtype="float32")

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, dtype=self.target)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target": self.target}
