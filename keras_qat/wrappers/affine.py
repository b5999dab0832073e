"""Affine maps that are an integer op of their own, because no weight layer stands before them."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_qat.lowering.affine import UNIT, inference_affine
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.fixed_grids import Rounding
from keras_qat.wrappers.neighbours import accumulator_rounding

Tensor = Any


@dataclasses.dataclass(frozen=True, eq=False)
class AffineNeighbours:
    """The quantizers around an affine map; found in the graph, never saved.

    Attributes:
        layer: the map itself.
        input_quantizer: puts its input on its grid.
        output_quantizer: puts the result on its grid.
        ceiling: where an activation between cuts values off, if it does.
    """

    layer: Any
    input_quantizer: Quantizer
    output_quantizer: Quantizer
    ceiling: float | None = None

    def integer_affine(self, x: Tensor) -> Tensor:
        """`gain * x + offset`, the offset a whole number of the accumulator's units."""
        gain, offset = inference_affine(self.layer)
        unit = self._unit(gain)
        safe = ops.where(unit > 0, unit, 1.0)
        rounded = ops.where(unit > 0, ops.round(offset / safe) * safe, offset)
        return gain * ops.cast(x, "float32") + rounded

    def rounding(self) -> Rounding:
        """Rounds the result to codes from the accumulator, as the integer op does."""
        gain, _ = inference_affine(self.layer)
        scale = self.output_quantizer.scale
        ceiling = None if self.ceiling is None else self.ceiling / scale
        return accumulator_rounding(self._unit(gain) / scale, ceiling)

    def _unit(self, gain: Tensor) -> Tensor:
        return self.input_quantizer.scale * ops.abs(gain) / UNIT


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization; in inference, between known quantizers, with an offset that deploys."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.neighbours: AffineNeighbours | None = None

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        if training or self.neighbours is None:
            return super().call(inputs, training=training, mask=mask)
        return ops.cast(self.neighbours.integer_affine(inputs), self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeRescaling(keras.layers.Layer):
    """`y = scale * x + offset`, in inference, between known quantizers, with one that deploys.

    Args:
        scale: a number, or one for each channel.
        offset: likewise.
    """

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale, self.offset = scale, offset
        self.neighbours: AffineNeighbours | None = None

    @classmethod
    def of(cls, layer: Any) -> QuantizeRescaling:
        """What computes the same as a Rescaling or a Normalization."""
        gain, offset = (ops.convert_to_numpy(each).tolist() for each in inference_affine(layer))
        return cls(gain, offset, name=layer.name, dtype=layer.dtype_policy)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if training or self.neighbours is None:
            dtype = self.compute_dtype
            scale, offset = (ops.cast(each, dtype) for each in (self.scale, self.offset))
            return ops.cast(inputs, dtype) * scale + offset
        return ops.cast(self.neighbours.integer_affine(inputs), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any, **kwargs: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "offset": self.offset}
