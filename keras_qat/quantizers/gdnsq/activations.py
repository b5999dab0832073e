"""`GDNSQActivationQuantizer`: the step, the range and the offset of a tensor are learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.errors import LoweringError
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.activation_quantizer import ActivationQuantizer
from keras_qat.quantizers.constraints import AtMost
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.gdnsq.bit_width import activation_bit_width, levels
from keras_qat.quantizers.gdnsq.calibration import calibrated_activation_parameters
from keras_qat.quantizers.gdnsq.integer_grids import (
    fake_quantize_snapped_activations,
    snapped_activation_grid,
)
from keras_qat.quantizers.gdnsq.noise_signs import RankOneSigns, random_rank_one_signs
from keras_qat.quantizers.gdnsq.published_grids import fake_quantize_activations
from keras_qat.quantizers.gdnsq.quantizer import (
    HOW_TO_MEET,
    GDNSQQuantizer,
    checked_bits,
    described_levels,
    most_levels,
    table_log,
)
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.initial_scale import Histogram, least_error_scale
from keras_qat.quantizers.replacement import Selection
from keras_qat.tensors import Tensor

_INT8_LEVELS = 256


@keras.saving.register_keras_serializable(package="keras_qat")
class GDNSQActivationQuantizer(GDNSQQuantizer, ActivationQuantizer):
    """Activations on a grid with a trained step, a trained range and, if signed, a trained offset.

    Forward: `code = round(clip(x / s, lowest, lowest + steps))` and `x_hat = s * code`. Here `s` is
    the step and `Q = 2**log_range`; `lowest` and `steps` are `offset / s` and `Q / s - 1`, rounded
    (`keras_qat.quantizers.gdnsq.integer_grids`).

    Backward: `dx = g * phi * inside`, `doffset = sum(g - dx)` (0 if not signed),
    `dlog_range = ln(2) * Q * sum g * phi * above`,
    `dlog_scale = ln(2) * s * sum g * (e + s * rho + (1 - phi) * v - phi * above)`. Here `v` is the
    position from the lowest code, `e` the noise, `inside` and `above` mark elements within and
    above the grid. The estimator passes `g * phi`, and the noise gradient gives `rho`.

    With `offset="free"` the grid starts at the offset, as published
    (`keras_qat.quantizers.gdnsq.published_grids`), and cannot be deployed.

    Source: GDNSQ (arXiv 2508.14004). The snapped offset and the table of steps are our own.

    Args:
        target_bits: the target width, 1 to 8.
        signed: whether values may be negative; if not, the offset stays at 0.
        estimator, noise_gradient, offset, start_bits, start_range, replacement, seed: see
            `GDNSQQuantizer`.

    Raises:
        ValueError: an option has a value that is not allowed.

    >>> quantizer = GDNSQActivationQuantizer(target_bits=2, signed=False)
    >>> quantizer.build((None, 4))
    >>> quantizer.set_scale(0.5)
    >>> [float(v) for v in quantizer(keras.ops.array([-1.0, 0.4, 1.2, 9.0]))]
    [0.0, 0.5, 1.0, 1.5]
    """

    def __init__(self, target_bits: int = 8, signed: bool = True, **kwargs: Any):
        bits = checked_bits(target_bits, "target bits of activations")
        super().__init__(Grid.for_activations(bits, signed), bits, **kwargs)
        self.signed = bool(signed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.offset = self.add_weight(
            name="offset",
            shape=(),
            initializer=keras.initializers.Constant(self._lowest_of(self.first_bits)),
            trainable=self.signed,
            constraint=AtMost(0.0) if self.deployable else None,
            autocast=False,
        )

    def _add_logarithms(self, input_shape: tuple[int | None, ...]) -> keras.Variable:
        """`[log_scale, log_range]` in one variable, which costs an optimizer less than two."""
        return self.add_weight(
            name="log_scale_and_range",
            shape=(2,),
            initializer=keras.initializers.Constant([0.0, float(self.first_bits)]),
            autocast=False,
        )

    @property
    def log_scale(self) -> Tensor:
        return self._scale_and_range()[0]

    @property
    def log_range(self) -> Tensor:
        """Base-2 logarithm of `Q`; a scalar."""
        return self._scale_and_range()[1]

    @property
    def scale(self) -> Tensor:
        """The step between codes; a scalar."""
        return self.step

    @property
    def grid(self) -> Grid:
        """The codes learned so far. The target's codes before the layer is built, and if free."""
        if not self.built or not self.deployable:
            return self._grid
        self._check_in_table()
        ends = self.forward_grid()
        return Grid(int(ends.qmin), int(ends.qmax))

    def extent(self, x: Tensor) -> Tensor:
        return super().extent(x) if self.deployable else self.step * (self.levels() - 1.0)

    def forward_grid(self) -> Grid:
        offset, held_levels = as_tensor(self.offset), as_tensor(self.held_levels)
        return snapped_activation_grid(offset, *self._scale_and_range(), held_levels).grid

    def set_scale(self, scale: Any) -> None:
        """Sets the grid of the target width with this step."""
        log_scale = table_log(scale)
        self._set_logarithms(ops.stack([log_scale, log_scale + self.target_bits]))
        self.offset.assign(2.0**log_scale * self._lowest_of(self.target_bits))

    def widen(self, factor: float) -> None:
        """Multiplies the range and the step by the next power of two, with the same levels."""
        octaves = float(np.ceil(np.log2(factor)))
        self._set_logarithms(ops.stack([*self._scale_and_range()]) + octaves)
        self.offset.assign(as_tensor(self.offset) * 2.0**octaves)

    def calibrate(self, histogram: Histogram, keep_range: bool = False) -> None:
        """Sets a grid of `first_bits`; a constant tensor is frozen.

        Args:
            histogram: how often the tensor takes each value.
            keep_range: cover the whole range, also with the `start_range` "least_error".
        """
        if self.start_range == "least_error" and not keep_range:
            histogram = self._of_least_error(histogram)
        low, high = np.float32(histogram.low), np.float32(histogram.high)
        if self.deployable:
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if not self.signed:
            low = np.float32(0.0)
        start = calibrated_activation_parameters(low, high, self.first_bits)
        self._set_logarithms(ops.stack([start.log_scale, start.log_range]))
        self.offset.assign(start.offset)
        self.trainable = bool(start.varies)

    def _of_least_error(self, histogram: Histogram) -> Histogram:
        """The histogram, cut to the range that `first_bits` represent with the least error."""
        grid = Grid.for_activations(self.first_bits, self.signed)
        scale = float(least_error_scale(histogram, grid))
        return dataclasses.replace(
            histogram,
            low=max(histogram.low, scale * grid.qmin),
            high=min(histogram.high, scale * grid.qmax),
        )

    def width_terms(self) -> tuple[Tensor, Tensor]:
        """`(log_range, log_scale)`, scalars."""
        log_scale, log_range = self._scale_and_range()
        return log_range, log_scale

    def width_of(self, extent: Tensor, log_scale: Tensor) -> Tensor:
        """`extent - log_scale`, both rounded to logarithms in the table of steps.

        Backward: 1 for `extent`, -1 for `log_scale`.
        """
        return activation_bit_width(self._log(log_scale), self._log(extent))

    def levels(self) -> Tensor:
        """How many levels the learned grid has, as a float scalar."""
        if not self.deployable:
            return levels(2.0 ** self.bit_width() - 1.0)
        grid = self.forward_grid()
        return grid.qmax - grid.qmin + 1.0

    def meets_target(self) -> Tensor:
        """Whether `target_bits` are enough for all levels."""
        return self.levels() <= 2.0**self.target_bits

    def narrow(self, bits: float | None = None) -> bool:
        """Widens the step until `bits` are enough for all levels.

        Args:
            bits: the bits to keep, `target_bits` by default. Fewer bits count as `target_bits`.

        Returns:
            Whether there were too many levels.
        """
        bits = self._at_least_target(bits)
        wide = float(self.levels()) > most_levels(bits)
        if wide:
            self._divide_into(bits)
        return wide

    def hold(self, refit: bool = False, fill: bool = True) -> None:
        """Fixes the number of levels; only the step and the offset stay trained.

        A model that meets its target thus stays deployable. A free grid cannot be held.

        Args:
            refit: first divide the learned range into these levels.
            fill: whether a grid that has learned fewer levels than its target gets all of them.
        """
        if self.holds:
            return
        levels = float(self._kept_levels(fill=fill))
        if refit:
            self._divide_into(float(np.log2(levels)))
        if self.deployable:
            self.held_levels.assign(levels)

    def _divide_into(self, bits: float) -> None:
        """Divides the range into `2**bits` levels.

        The upper end falls to `Q - s`, which at 1 bit is half the range. That is wanted: with few
        levels, a grid up to the largest value would round nearly all other values to zero.
        """
        log_range = self.log_range
        self._set_logarithms(ops.stack([self._log(log_range) - bits, log_range]))

    def qparams(self) -> QuantParams:
        """The grid learned so far.

        Raises:
            LoweringError: the grid has more than 256 levels, or the offset is free.
        """
        self._check_snapped()
        found = self.grid.qmax - self.grid.qmin + 1
        if found > _INT8_LEVELS:
            raise LoweringError(
                f"{self.name!r} has learned {described_levels(found)}; int8 holds {_INT8_LEVELS}. "
                f"Its target is {self.target_bits} bits: {HOW_TO_MEET}"
            )
        return super().qparams()

    def draw_noise_sign(self, x: Tensor) -> RankOneSigns:
        return random_rank_one_signs(ops.shape(x), self.seed_generator)

    def fake_quantize(
        self,
        x: Tensor,
        rounding: Rounding,
        selection: Selection | None = None,
        noise_sign: RankOneSigns | None = None,
    ) -> Tensor:
        """See `Quantizer.fake_quantize`. A free grid ignores `rounding` and rounds to the nearest.

        Args:
            x: the tensor.
            rounding: `(x / scale, grid) -> codes`.
            selection: `noise in steps -> which elements are quantized`; `None` for all.
            noise_sign: the signs for the elements of `x`; `None` leaves the random term out.
        """
        parameters = (self.offset, *self._scale_and_range(), self.signed)
        noise = self._noise_now(noise_sign)
        if not self.deployable:
            return fake_quantize_activations(x, *parameters, noise, selection)
        held_levels = as_tensor(self.held_levels)
        return fake_quantize_snapped_activations(
            x, *parameters, held_levels, noise, rounding, selection
        )

    def codes(self, x: Tensor, pooled: bool = False) -> Tensor:
        """The integer code of every element of `x` in inference, int32.

        Raises:
            LoweringError: the offset is free.
        """
        self._check_snapped()
        return super().codes(x, pooled)

    def discretization_error(self, x: Tensor) -> Tensor:
        if self.deployable:
            return super().discretization_error(x)
        levels = self.levels() - 1.0
        position = ops.clip((x - as_tensor(self.offset)) / self.step, 0.0, levels)
        return ops.mean(ops.square((position - ops.round(position)) / levels))

    def _scale_and_range(self) -> tuple[Tensor, Tensor]:
        log_scale, log_range = ops.unstack(self._trained_logarithms())
        return log_scale, log_range

    def _lowest_of(self, bits: int) -> float:
        return -(2.0 ** (bits - 1)) if self.signed else 0.0

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "signed": self.signed}
