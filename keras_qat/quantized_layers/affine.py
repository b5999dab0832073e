"""Affine maps. Without a weight layer before it, a map is an integer op of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_qat.arithmetic import Arithmetic, RoundsAsTarget
from keras_qat.keras_moments import moments_captured
from keras_qat.lowering.affine import UNIT, inference_affine
from keras_qat.quantized_layers.accumulators import accumulator_rounding
from keras_qat.quantized_layers.target_codes import Neighbours, values_of_target
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import round_to_codes
from keras_qat.quantizers.int8_grids import chosen, has_integers, rounding_if
from keras_qat.target_values import trains_as_target
from keras_qat.tensors import Tensor

_IMAGE_RANK = 4


@dataclasses.dataclass(frozen=True)
class AffineAccumulator:
    """The quantizers around one affine map or several. They are found in the graph, never saved.

    Attributes:
        layers: the affine maps, in order. The last one computes all of them.
        input_quantizer: the layer that puts the input on its grid.
        output_quantizer: the quantizer of the result.
        ceiling: the ceiling of an activation before `output_quantizer`; `None` without one.
        relu: whether a ReLU is before `output_quantizer`.
    """

    layers: tuple[Any, ...]
    input_quantizer: PutsOnGrid
    output_quantizer: ActivationQuantizer
    ceiling: float | None = None
    relu: bool = False

    def output(self, x: Tensor, own: Callable[[], Tensor], arithmetic: Arithmetic) -> Tensor:
        """`gain * x + offset`, with the offset rounded to a whole number of accumulator units.

        In fixed point: the values on the grid behind it that the op of the target yields.
        """

        def in_float() -> Tensor:
            return self._affine_of(x)

        if not arithmetic.fixed_point:
            return in_float()
        return chosen(self._has_integers(), lambda: self._on_target(x), in_float)

    def _has_integers(self) -> Any:
        return has_integers(self.input_quantizer, self.output_quantizer)

    def _on_target(self, x: Tensor) -> Tensor:
        codes = ops.full((1, x.shape[-1]), UNIT, dtype="int32")
        around = Neighbours(
            self.input_quantizer, self.layers, self.output_quantizer, self.relu, self.ceiling
        )
        return values_of_target(
            x, codes, 1.0 / UNIT, None, lambda x, kernel: x * kernel[0], around, may_be_int4=False
        )

    def _affine_of(self, x: Tensor) -> Tensor:
        gain, offset = self._affine()
        unit = self._unit(gain)
        safe = ops.where(unit > 0, unit, 1.0)
        rounded = ops.where(unit > 0, ops.round(offset / safe) * safe, offset)
        return gain * ops.cast(x, "float32") + rounded

    def yields_codes(self, arithmetic: Arithmetic) -> bool:
        """Whether the map has rounded already."""
        return arithmetic.fixed_point and self._has_integers() is True

    def rounding(self, arithmetic: Arithmetic) -> Rounding:
        """Rounds the result to codes from the accumulator, like the integer op."""
        if not arithmetic.fixed_point:
            return self._from_accumulator()

        return rounding_if(self._has_integers(), round_to_codes, self._from_accumulator())

    def _from_accumulator(self) -> Rounding:
        gain, _ = self._affine()
        scale = self.output_quantizer.scale
        ceiling = None if self.ceiling is None else self.ceiling / scale
        return accumulator_rounding(self._unit(gain) / scale, ceiling)

    def _affine(self) -> tuple[Tensor, Tensor]:
        gain, offset = inference_affine(self.layers[0])
        for layer in self.layers[1:]:
            factor, added = inference_affine(layer)
            gain, offset = gain * factor, offset * factor + added
        return gain, offset

    def _unit(self, gain: Tensor) -> Tensor:
        return self.input_quantizer.scale * ops.abs(gain) / UNIT


@dataclasses.dataclass(frozen=True)
class DeferredAffine:
    """What an affine map before another one is told: the last one computes both in inference."""

    def output(self, x: Tensor, own: Callable[[], Tensor], arithmetic: Arithmetic) -> Tensor:
        """The input."""
        return x


@dataclasses.dataclass(frozen=True)
class FoldedAffine:
    """What an affine map behind a weight layer is told: in fixed point that layer computes both.

    Attributes:
        layer: a weight layer before the map. With all others before it, it computes the map.
    """

    layer: Any = dataclasses.field(compare=False)

    def output(self, x: Tensor, own: Callable[[], Tensor], arithmetic: Arithmetic) -> Tensor:
        """The input, or the output of the map itself."""
        if not arithmetic.fixed_point:
            return own()
        return chosen(self.layer.has_integers(), lambda: x, own)


AffineConnection = AffineAccumulator | DeferredAffine | FoldedAffine


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeBatchNormalization(RoundsAsTarget, keras.layers.BatchNormalization):
    """BatchNormalization. In inference between known grids, its offset is rounded to deploy.

    On TensorFlow, one kernel normalizes images in training. It takes a third of the time that Keras
    takes, and keeps one tensor instead of several.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.connections: dict[int, AffineConnection] = {}

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        if training and trains_as_target():
            return self._with_running_statistics(inputs)
        if training and mask is None and self._has_kernel(inputs):
            return self._normalized(inputs)

        def own() -> Tensor:
            outputs = super(QuantizeBatchNormalization, self).call(inputs, training, mask)
            return ops.cast(outputs, self.compute_dtype)

        if training or 0 not in self.connections:
            return own()
        outputs = self.connections[0].output(inputs, own, self.arithmetic)
        return ops.cast(outputs, self.compute_dtype)

    def _with_running_statistics(self, inputs: Tensor) -> Tensor:
        """As in inference, and without rounding the offset."""
        return ops.cast(super().call(inputs, training=False), self.compute_dtype)

    def _has_kernel(self, inputs: Tensor) -> bool:
        last = len(inputs.shape) == _IMAGE_RANK and self.axis in (-1, _IMAGE_RANK - 1)
        plain = self.trainable and not (self.renorm or self.synchronized or moments_captured(self))
        on_tensorflow = keras.backend.backend() == "tensorflow"
        return on_tensorflow and last and plain and inputs.dtype != "float64"

    def _normalized(self, inputs: Tensor) -> Tensor:
        """Normalizes a batch by its statistics, and moves the running statistics."""
        import tensorflow as tf

        x = ops.cast(inputs, "float32")
        channels = ops.shape(x)[-1]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=ops.ones(channels) if self.gamma is None else as_tensor(self.gamma),
            offset=ops.zeros(channels) if self.beta is None else as_tensor(self.beta),
            mean=ops.zeros(0),
            variance=ops.zeros(0),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = ops.cast(ops.size(x) // channels, "float32")
        biased = variance * ((count - 1.0) / count)  # Keras averages it; the kernel's is unbiased
        for running, batch in ((self.moving_mean, mean), (self.moving_variance, biased)):
            running.assign(running * self.momentum + batch * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


class AffineLayer(RoundsAsTarget):
    """Base of `y = scale * x + offset`: a subclass has `scale` and `offset`.

    In inference between known grids, `offset` is rounded to deploy.
    """

    scale: Any
    offset: Any

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.connections: dict[int, AffineConnection] = {}

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        def own() -> Tensor:
            dtype = self.compute_dtype
            scale, offset = (ops.cast(each, dtype) for each in (self.scale, self.offset))
            return ops.cast(inputs, dtype) * scale + offset

        if training or 0 not in self.connections:
            return own()
        outputs = self.connections[0].output(inputs, own, self.arithmetic)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any, **kwargs: Any) -> Any:
        return input_shape


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeRescaling(AffineLayer):
    """`y = scale * x + offset`. In inference between known grids, `offset` is rounded to deploy.

    Args:
        scale: one number, or one for each channel.
        offset: one number, or one for each channel.
    """

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale, self.offset = scale, offset

    @classmethod
    def of(cls, layer: Any) -> QuantizeRescaling:
        """A layer that computes the same as a Rescaling or a Normalization."""
        gain, offset = (ops.convert_to_numpy(each).tolist() for each in inference_affine(layer))
        return cls(
            gain,
            offset,
            name=layer.name,
            dtype=layer.dtype_policy,
            activity_regularizer=layer.activity_regularizer,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "offset": self.offset}
