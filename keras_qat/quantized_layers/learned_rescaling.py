"""`LearnedRescaling`: scales and offsets that train, for each channel or for each value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_qat.quantized_layers.affine import AffineLayer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_qat")
class LearnedRescaling(AffineLayer):
    """`y = scale * x + offset` over the last axis of `x`, with variables instead of constants.

    A variable has a shape of its own. It is reshaped to its view, broadcast to `features`, and
    flattened to the last axis of `x`. Of a table that is longer than its view, the first rows
    count. In inference between known grids, the offset is rounded to deploy.

    Args:
        features: the shape to which the variables are broadcast.
        scale_shape: the shape of the variable `scale`; `None` for a scale of 1.
        offset_shape: the shape of the variable `offset`; `None` for an offset of 0.
        scale_view, offset_view: the shapes in which the variables are broadcast; by default
            `features`.
        scale_regularizer, offset_regularizer: see `keras.regularizers`.
        scale_constraint, offset_constraint: see `keras.constraints`.

    >>> layer = LearnedRescaling((2,), scale_shape=(2,))
    >>> layer(keras.ops.ones((1, 2))).shape
    TensorShape([1, 2])
    """

    def __init__(
        self,
        features: Sequence[int],
        scale_shape: Sequence[int] | None = None,
        offset_shape: Sequence[int] | None = None,
        scale_view: Sequence[int] | None = None,
        offset_view: Sequence[int] | None = None,
        scale_regularizer: Any = None,
        offset_regularizer: Any = None,
        scale_constraint: Any = None,
        offset_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.features = tuple(features)
        self.scale_shape = None if scale_shape is None else tuple(scale_shape)
        self.offset_shape = None if offset_shape is None else tuple(offset_shape)
        self.scale_view = self.features if scale_view is None else tuple(scale_view)
        self.offset_view = self.features if offset_view is None else tuple(offset_view)
        self.scale_regularizer = keras.regularizers.get(scale_regularizer)
        self.offset_regularizer = keras.regularizers.get(offset_regularizer)
        self.scale_constraint = keras.constraints.get(scale_constraint)
        self.offset_constraint = keras.constraints.get(offset_constraint)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.scale_variable = self._weight("scale", self.scale_shape, "ones")
        self.offset_variable = self._weight("offset", self.offset_shape, "zeros")

    def _weight(self, name: str, shape: tuple[int, ...] | None, start: str) -> Any:
        if shape is None:
            return None
        return self.add_weight(
            shape=shape,
            initializer=start,
            name=name,
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
        )

    @property
    def scale(self) -> Tensor:
        """The scale of every value on the last axis."""
        return self._flat(self.scale_variable, self.scale_view, 1.0)

    @property
    def offset(self) -> Tensor:
        """The offset of every value on the last axis."""
        return self._flat(self.offset_variable, self.offset_view, 0.0)

    def _flat(self, variable: Any, view: tuple[int, ...], constant: float) -> Tensor:
        if variable is None:
            return constant
        values = ops.reshape(as_tensor(variable), (-1,))[: math.prod(view)]
        values = ops.broadcast_to(ops.reshape(values, view), self.features)
        return ops.reshape(values, (math.prod(self.features),))

    def get_config(self) -> dict[str, Any]:
        regularizers, constraints = keras.regularizers, keras.constraints
        return {
            **super().get_config(),
            "features": self.features,
            "scale_shape": self.scale_shape,
            "offset_shape": self.offset_shape,
            "scale_view": self.scale_view,
            "offset_view": self.offset_view,
            "scale_regularizer": regularizers.serialize(self.scale_regularizer),
            "offset_regularizer": regularizers.serialize(self.offset_regularizer),
            "scale_constraint": constraints.serialize(self.scale_constraint),
            "offset_constraint": constraints.serialize(self.offset_constraint),
        }
