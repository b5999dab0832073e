"""`Quantizer`: the layer that holds a grid, its scale, and the path of its gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.estimators import Rounding
from keras_qat.quantizers.fake_quantize import (
    Grid,
    round_pooled_to_codes,
    round_to_codes,
)
from keras_qat.quantizers.initial_scale import (
    Histogram,
    least_error_scale,
    least_error_weight_scale,
    range_scale,
)

Tensor = Any


class Accumulator(Protocol):
    """The int32 accumulator behind a float tensor, as the integer kernel will round it."""

    def rounding(self) -> Rounding:
        """Rounds `ratio = x / scale` to codes, from the accumulator that `x` stands for."""


class Quantizer(keras.layers.Layer):
    """Base of all quantizers: `call(x)` fake-quantizes, `codes(x)` gives the integers.

    The law that every quantizer keeps, exactly: `codes(x) * scale == call(x)`.

    A subclass implements `fake_quantize(x, rounding)` with the gradient of its choice and may add
    variables. All of them are float32 under every dtype policy.

    Args:
        grid: the integer codes, a `Grid` (or its fields as a dict).
        per_channel: one scale for each channel of the last axis, instead of one for the tensor.

    Call arguments:
        x: float tensor of any shape.
        pooled: `x` is an average of values on this grid; round as AVERAGE_POOL_2D does.
        training: whether the call is one of training. In inference, behind a weight layer whose
            neighbours are known (`accumulator`), rounding starts from the integer accumulator.
    """

    def __init__(self, grid: Grid | dict[str, int], per_channel: bool = False, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self._grid = Grid(**grid) if isinstance(grid, dict) else grid
        self.per_channel = per_channel
        self.supports_masking = True
        self.accumulator: Accumulator | None = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (input_shape[-1],) if self.per_channel else ()
        self.calibrated_scale = self.add_weight(
            name="calibrated_scale",
            shape=shape,
            initializer="ones",
            trainable=False,
            autocast=False,
        )

    @property
    def grid(self) -> Grid:
        """The codes; where they are learned, as they are now."""
        return self._grid

    @property
    def bits(self) -> int:
        """The bits of the codes; where they are learned, those aimed at."""
        return self.grid.bits

    @property
    def deployable(self) -> bool:
        """Whether every value of this quantizer is a whole number of `scale`."""
        return True

    @property
    def learns_width(self) -> bool:
        """Whether training moves the bit width, which a penalty drives to `bits`."""
        return False

    @property
    def scale(self) -> Tensor:
        """The real value of code 1, positive; shape `()` or `(channels,)`."""
        return as_tensor(self.calibrated_scale)

    def set_scale(self, scale: Any) -> None:
        """Starts over from a calibrated scale."""
        self.calibrated_scale.assign(scale)

    def calibrate(self, histogram: Histogram, keep_range: bool = False) -> None:
        """Starts over from the values of a tensor: with the least squared error.

        Args:
            histogram: how often the tensor takes which value.
            keep_range: clip nothing, as for a model's input.
        """
        start = range_scale if keep_range else least_error_scale
        self.set_scale(start(histogram, self.grid))

    def calibrate_weights(self, kernel: npt.NDArray[Any]) -> None:
        """Starts over from a kernel, channels last: with the least squared error."""
        self.set_scale(least_error_weight_scale(kernel, self.grid, self.per_channel))

    def call(self, x: Tensor, pooled: bool = False, training: bool = False) -> Tensor:
        return self.fake_quantize(x, self._rounding(pooled, training))

    def fake_quantize(self, x: Tensor, rounding: Any) -> Tensor:
        """`scale * rounding(x / scale)` with the gradient of this quantizer."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement fake_quantize(x, rounding)"
        )

    def codes(self, x: Tensor, pooled: bool = False) -> Tensor:
        """The integer code of every element of `x` in inference, int32."""
        rounding = self._rounding(pooled, training=False)
        ratio = ops.cast(x, "float32") / self.scale
        return ops.cast(rounding(ratio, self.forward_grid()), "int32")

    def largest_code(self, kernel: Tensor) -> Any:
        """What no code of a kernel exceeds: one number, or one for each channel."""
        return max(-self.grid.qmin, self.grid.qmax)

    def learned_bits(self, kernel: Tensor) -> int:
        """The bits that number the codes of a kernel as it is now."""
        return self.bits

    def deployed_codes(self, kernel: Tensor, name: str) -> npt.NDArray[np.int32]:
        """The codes of a kernel that a file can hold; `name` is that of its layer.

        Raises:
            LoweringError: it cannot hold what was learned so far.
        """
        return np.asarray(ops.convert_to_numpy(self.codes(kernel)))

    def forward_grid(self) -> Grid:
        """The codes inside the forward pass: where they are learned, the ends are tensors."""
        return self.grid

    def _rounding(self, pooled: bool, training: bool) -> Rounding:
        if pooled:
            return round_pooled_to_codes
        if training or self.accumulator is None:
            return round_to_codes
        return self.accumulator.rounding()

    def qparams(self) -> QuantParams:
        """The grid with the scale learned so far."""
        scale = np.asarray(ops.convert_to_numpy(self.scale), dtype=np.float32)
        return self.grid.qparams(scale, axis=-1 if self.per_channel else None)

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid": dataclasses.asdict(self._grid),
            "per_channel": self.per_channel,
        }
