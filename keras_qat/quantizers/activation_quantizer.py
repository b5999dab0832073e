"""`ActivationQuantizer`: the base of quantizers of tensors that a model computes."""

from __future__ import annotations

from typing import Any, Protocol

from keras import ops

from keras_qat.arithmetic import Arithmetic, RoundsAsTarget
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import (
    Grid,
    round_interpolated_to_codes,
    round_nonnegative_to_codes,
    round_pooled_to_codes,
    round_resized_to_codes,
    round_to_codes,
)
from keras_qat.quantizers.initial_scale import Histogram, least_error_scale, range_scale
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.quantizers.replacement import (
    Selection,
    random_selection,
    random_selection_in_batch,
)
from keras_qat.target_values import as_told
from keras_qat.tensors import Tensor

NO_SOURCE = -1
"""`source` of a call behind a layer that moves or clamps values that are on the grid already."""

_MEASURED_EXAMPLES = 4
_FORMERLY_OF_ALL = ("per_channel", "code_regularization")
"""Options that only weights have. Files of earlier releases have them for activations too."""


class Accumulator(Protocol):
    """The int32 accumulator behind a float tensor, as the integer kernel will round it."""

    def yields_codes(self, arithmetic: Arithmetic) -> bool:
        """Whether the op before has rounded to the grid, whatever was learned."""

    def rounding(self, arithmetic: Arithmetic) -> Rounding:
        """A function that takes `ratio = x / scale` and a grid, and returns codes.

        It first finds the whole number in the accumulator that `x` comes from, and then rounds this
        number to codes.
        """


class ActivationQuantizer(RoundsAsTarget, Quantizer):
    """Base of the quantizers of activations: one scale for the tensor.

    A subclass implements `fake_quantize(x, rounding, selection)`.

    Args:
        grid, estimator, replacement, seed: see `Quantizer`.

    Attributes:
        accumulators: the accumulator that inference rounds from, for each source. Found in the
            graph.
        never_negative: whether no input can be negative. Found in the graph; `None` before.

    Call arguments:
        x: float tensor of any shape, examples first.
        pooled: `x` is an average of values on this grid; round as AVERAGE_POOL_2D does.
        interpolated: `x` lies between values on this grid; round as RESIZE_BILINEAR does.
        source: the index of the op that computed `x`, among the ops that yield values on this
            grid. `NO_SOURCE` for none.
        loss_reads: what training yields for a loss that takes a logarithm of it: `"value"` for `x`
            itself, `"clipped"` for `x` in the range of the grid, `None` for the level.
        training: whether the model trains. In inference, rounding starts from the integer
            accumulator of the source, if `accumulators` has it.
    """

    def __init__(self, grid: Grid | dict[str, int], **kwargs: Any):
        super().__init__(grid, **kwargs)
        self.accumulators: dict[int, Accumulator] = {}
        self.never_negative: bool | None = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._is_batch = input_shape[0] is None  # else elements are selected as in a kernel
        super().build(input_shape)

    def calibrate(self, histogram: Histogram, keep_range: bool = False) -> None:
        """Sets the scale with the least squared error on the values of a tensor.

        Args:
            histogram: how often the tensor takes each value.
            keep_range: choose the smallest scale that clips nothing, as for a model's input.
        """
        start = range_scale if keep_range else least_error_scale
        self.set_scale(start(histogram, self.grid))

    def widen(self, factor: float) -> None:
        """Multiplies the range by a factor, with the same codes; what was learned stays."""
        self.calibrated_scale.assign(as_tensor(self.calibrated_scale) * factor)

    def call(
        self,
        x: Tensor,
        pooled: bool = False,
        interpolated: bool = False,
        source: int = 0,
        loss_reads: str | None = None,
        training: bool = False,
    ) -> Tensor:
        if training:
            outputs = self._in_training(x, pooled, interpolated, source, loss_reads)
            told = as_told(self, outputs)
            return told if loss_reads is None else outputs
        if self._reads_codes(source):
            return self._tapped(ops.cast(x, "float32"))
        rounding = self._rounding(pooled, training, interpolated, source)
        return self._fake_quantized(x, rounding, training)

    def _in_training(
        self, x: Tensor, pooled: bool, interpolated: bool, source: int, loss_reads: str | None
    ) -> Tensor:
        if loss_reads == "value":
            return ops.cast(x, "float32")
        rounding = self._rounding(pooled, True, interpolated, source)
        return self._fake_quantized(x, rounding, True, rounds=loss_reads != "clipped")

    def _reads_codes(self, source: int) -> bool:
        """Whether the op before put its result on this grid already."""
        told = self.accumulators.get(source)
        return told is not None and told.yields_codes(self.arithmetic)

    def codes(self, x: Tensor, pooled: bool = False) -> Tensor:
        """The integer code of every element of `x` in inference, int32.

        Args:
            x: the tensor.
            pooled: see the call arguments.
        """
        return self._codes(x, self._rounding(pooled, training=False))

    def _rounding(
        self, pooled: bool, training: bool, interpolated: bool = False, source: int = 0
    ) -> Rounding:
        if interpolated:
            fixed_point = self.arithmetic.fixed_point and not training
            return round_resized_to_codes if fixed_point else round_interpolated_to_codes
        if pooled:
            return round_pooled_to_codes
        if training and self.never_negative:
            return round_nonnegative_to_codes
        if training or source not in self.accumulators:
            return round_to_codes
        return self.accumulators[source].rounding(self.arithmetic)

    def _measured(self, x: Tensor) -> Tensor:
        return x[:_MEASURED_EXAMPLES] if self._is_batch else x

    def _random_selection(self, x: Tensor, share: Tensor) -> Selection:
        if not self._is_batch:
            return super()._random_selection(x, share)
        if self.replacement == "persistent":
            return random_selection(x.shape[1:], share, self.seed)
        return random_selection_in_batch(ops.shape(x), share, self.seed_generator)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActivationQuantizer:
        """The quantizer of a config, also of an earlier release with options of weights.

        Raises:
            ValueError: the config asks for a scale for each channel.
        """
        if config.get("per_channel"):
            raise ValueError(
                f"The quantizer {config.get('name')!r} has a scale for each channel, which "
                "activations no longer have: no runtime reads one. Received: per_channel=True. "
                "Make the model again with keras_qat.quantize."
            )
        return cls(**{key: config[key] for key in config if key not in _FORMERLY_OF_ALL})
