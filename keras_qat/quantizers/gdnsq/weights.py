"""`GDNSQWeightQuantizer`: a learned number of levels for each channel of a kernel."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.errors import LoweringError
from keras_qat.file_format import with_later_variables
from keras_qat.integer.op_numbers import WEIGHT_MAX
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.gdnsq.bit_width import extent_bit_width, levels, weight_extent
from keras_qat.quantizers.gdnsq.calibration import (
    SMALLEST_LOG_SCALE,
    calibrated_weight_log_scale,
)
from keras_qat.quantizers.gdnsq.integer_grids import (
    WeightGrid,
    fake_quantize_snapped_weights,
    snapped_weight_grid,
    weight_range,
)
from keras_qat.quantizers.gdnsq.published_grids import fake_quantize_weights
from keras_qat.quantizers.gdnsq.quantizer import (
    HOW_TO_MEET,
    GDNSQQuantizer,
    checked_bits,
    described_levels,
    most_levels,
    table_log,
)
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.reductions import sharing_axes, sum_to_shape
from keras_qat.quantizers.replacement import Selection
from keras_qat.quantizers.weight_quantizer import WeightQuantizer
from keras_qat.tensors import Tensor

_WIDEST_IN_HALF_STEPS = 6
_FINER_STEPS = np.arange(0.0, 4.0, 0.125)
"""The steps that `hold` tries, in octaves below the step that covers the whole range."""


@keras.saving.register_keras_serializable(package="keras_qat")
class GDNSQWeightQuantizer(GDNSQQuantizer, WeightQuantizer):
    """Weights on a grid whose step is trained as a base-2 logarithm; the number of levels follows.

    Forward: `w_hat = unit * code`, with the step `s` and `unit = s / 2` (`s` for targets of 7 and 8
    bits). The codes of a channel are `lowest + {0, 2, 4, ...}`, centred on its range
    (`keras_qat.quantizers.gdnsq.integer_grids`).

    Backward: `dw = g * phi + [w == low] / ties * sum g * (1 - phi)` and
    `dlog_scale = ln(2) * s * sum g * (e + s * rho + (1 - phi) * v)`. Here `v` is the position on
    the grid in steps, `q` its code and `e = q - v`. The estimator passes `g * phi`, and the noise
    gradient gives `rho`.

    There is no learned clamp: until the grid is held, it follows the range of the weights, as in
    the published code.

    With `offset="free"` the grid starts at the smallest weight, as published
    (`keras_qat.quantizers.gdnsq.published_grids`), and cannot be deployed.

    Source: GDNSQ (arXiv 2508.14004). The snapped offset, half steps and the table of steps are our
    own.

    Args:
        target_bits: the target width, 1 to 8.
        per_channel: a step for each channel of the last axis, instead of one for the kernel.
        code_regularization, preserve_clusters: see `WeightQuantizer`.
        preserve_sparsity: see `WeightQuantizer`. From 2 bits on, steps are then whole, because half
            steps may leave out zero: `2**target_bits - 1` levels.
        estimator, noise_gradient, offset, start_bits, start_range, replacement, seed: see
            `GDNSQQuantizer`.

    Raises:
        ValueError: an option has a value that is not allowed.

    >>> quantizer = GDNSQWeightQuantizer(target_bits=1)
    >>> [float(w) for w in quantizer(keras.ops.array([-0.6, -0.1, 0.5]))]
    [-0.5, -0.5, 0.5]
    """

    def __init__(
        self,
        target_bits: int = 8,
        per_channel: bool = False,
        preserve_sparsity: bool = False,
        **kwargs: Any,
    ):
        bits = checked_bits(target_bits, "target bits of weights")
        needs_zero = preserve_sparsity and bits > 1
        self.half_steps = bits <= _WIDEST_IN_HALF_STEPS and not needs_zero
        reach = 2 * (2**bits - 1) if self.half_steps else (2**bits - 1) // 2
        kwargs |= {"per_channel": per_channel, "preserve_sparsity": preserve_sparsity}
        super().__init__(Grid(-reach, reach), bits, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if self.deployable:
            self.held_middle = self.add_weight(
                name="held_middle",
                shape=self._logarithms.shape,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            self.held_fewer = self.add_weight(
                name="held_fewer",
                shape=self._logarithms.shape,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )

    def load_own_variables(self, store: Any) -> None:
        """Loads the variables. Older files lack the last one, which stays as it is."""
        own = [*self._trainable_variables, *self._non_trainable_variables]
        super().load_own_variables(with_later_variables(store, own))

    def _add_logarithms(self, input_shape: tuple[int | None, ...]) -> keras.Variable:
        return self.add_weight(
            name="log_scale",
            shape=self.scale_shape(input_shape),
            initializer="zeros",
            autocast=False,
        )

    @property
    def log_scale(self) -> Tensor:
        return self._trained_logarithms()

    @property
    def scale(self) -> Tensor:
        """The real value of code 1: half a step or a whole step; `()` or `(channels,)`."""
        return self.step * 0.5 if self.half_steps else self.step

    def set_scale(self, scale: Any) -> None:
        self._set_logarithms(table_log(scale) + (1.0 if self.half_steps else 0.0))

    def calibrate_weights(self, kernel: npt.NDArray[Any]) -> None:
        """Sets the steps for `first_bits` from the lowest to the highest weight."""
        kernel = ops.convert_to_tensor(kernel, "float32")
        if self.deployable:
            kernel = ops.concatenate([*self._range(kernel)], axis=0)
        shape = tuple(self.log_scale.shape)
        start = calibrated_weight_log_scale(kernel, self.first_bits, shape)
        one_less = np.log2((2.0**self.first_bits - 1.0) / self._steps(self.first_bits))
        self._set_logarithms(start + np.float32(one_less))

    def outgrown(self, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """1: the range is the kernel's, so it clips nothing."""
        return np.ones(tuple(self.log_scale.shape))

    def share_beyond(self, kernel: Tensor) -> float:
        """See `WeightQuantizer`; 0 until the grid is held, as it follows the range of weights."""
        return super().share_beyond(kernel) if self.holds else 0.0

    def _steps_of_grid(self, kernel: Tensor) -> Any:
        return ops.convert_to_numpy(self.weight_grid(kernel).steps)

    def width_terms(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """`(R, log_scale)`, in the shape of the step.

        `R` is `max(w, 0) - min(w, 0)` in half steps, `2 * max|w|` in whole steps, and
        `max(w) - min(w)` if free.
        """
        log_scale = self.log_scale
        if not self.deployable:
            return weight_extent(kernel, log_scale), log_scale
        low, high = self._range(kernel)
        return ops.reshape(high - low, log_scale.shape), log_scale

    def width_of(self, extent: Tensor, log_scale: Tensor) -> Tensor:
        """`log2(R / s + 1)`.

        Backward: `d / d log_scale = -R / (R + s)`, `d / d R = 1 / (ln(2) * (R + s))`.
        """
        return extent_bit_width(extent, self._log(log_scale))

    def levels(self, kernel: Tensor) -> Tensor:
        """The number of levels of a kernel's grid, in the shape of the step."""
        if not self.deployable:
            return levels(2.0 ** self.bit_width(kernel) - 1.0)
        steps = self.weight_grid(kernel).steps
        return ops.reshape(steps, self.log_scale.shape) + 1.0

    def meets_target(self, kernel: Tensor) -> Tensor:
        """Whether `target_bits` are enough for the levels of every channel."""
        return ops.all(self.levels(kernel) <= 2.0**self.target_bits)

    def narrow(self, kernel: Tensor, bits: float | None = None) -> bool:
        """Widens the steps until `bits` are enough for the levels of every channel.

        Args:
            kernel: the weights.
            bits: the bits to keep, `target_bits` by default. Fewer bits count as `target_bits`.

        Returns:
            Whether any channel had too many levels.
        """
        bits = self._at_least_target(bits)
        wide = ops.convert_to_numpy(self.levels(kernel)) > most_levels(bits)
        if np.any(wide):
            log_scale = ops.convert_to_numpy(self.log_scale)
            fitting = np.where(wide, self._log_scale_of(kernel, bits), log_scale)
            self._set_logarithms(fitting)
        return bool(np.any(wide))

    def _refit(self, kernel: Tensor, levels: Any) -> None:
        """Sets every step by the least squared error on a number of levels.

        The levels then cover the whole range of the weights, or cut off the outermost weights.
        """
        steps = levels - 1.0 if self.half_steps else 2.0 * np.floor((levels - 1.0) / 2.0)
        coarsest = self._finest_with(kernel, steps)
        if not (self.deployable and self.half_steps):
            self._set_logarithms(coarsest)
            return
        least, best = np.full(coarsest.shape, np.inf), coarsest
        for octaves in _FINER_STEPS.astype(np.float32):
            error = self._held_error(kernel, coarsest - octaves, levels)
            best = np.where(error < least, coarsest - octaves, best)
            least = np.minimum(error, least)
        self._set_logarithms(best)

    def _held_error(self, kernel: Tensor, log_scale: Any, levels: Any) -> npt.NDArray[Any]:
        """The squared error of every channel on the grid that `hold` keeps with these steps."""
        kernel = ops.convert_to_tensor(kernel, "float32")
        log_scale = ops.convert_to_tensor(log_scale, "float32")
        levels = ops.convert_to_tensor(levels, "float32")
        middle = self._middle(snapped_weight_grid(kernel, log_scale, self.half_steps), levels)
        grid = snapped_weight_grid(kernel, log_scale, self.half_steps, levels, middle)
        error = ops.square(grid.codes(kernel) * grid.unit - kernel)
        return np.asarray(ops.convert_to_numpy(sum_to_shape(error, log_scale)))

    def _middle(self, grid: WeightGrid, levels: Tensor) -> Tensor:
        """The middle code of a grid with these levels that keeps the codes of `grid`."""
        steps = levels - 1.0
        added = ops.maximum(steps - grid.steps, 0.0)
        return ops.clip(grid.lowest + grid.steps + added % 2.0, -steps, steps)

    def hold(self, kernel: Tensor, refit: bool = False, fill: bool = True) -> None:
        """Fixes the number of levels of every channel and their codes; only steps stay trained.

        A model that meets its target thus stays deployable. A free grid cannot be held.

        Args:
            kernel: the weights.
            refit: first set the steps with the least squared error.
            fill: whether a channel that has learned fewer levels than its target gets all of them.
        """
        if self.holds:
            return
        levels = self._kept_levels(kernel, fill=fill)
        if refit:
            self._refit(kernel, levels)
        if not self.deployable:
            return
        if self.half_steps:
            middle = self._middle(self.weight_grid(kernel), ops.convert_to_tensor(levels))
            self.held_middle.assign(ops.reshape(middle, self.log_scale.shape))
        self.held_fewer.assign(2.0**self.target_bits - levels)
        self.held_levels.assign(2.0**self.target_bits)

    def held(self) -> Tensor:
        held = super().held()
        return held - as_tensor(self.held_fewer) if self.deployable else held

    def _log_scale_of(self, kernel: Tensor, bits: float) -> Any:
        """The finest steps in the table with which the widths of a kernel are at most `bits`."""
        return self._finest_with(kernel, self._steps(bits))

    def _finest_with(self, kernel: Tensor, steps: Any) -> Any:
        """The finest steps in the table. At most `steps` of them cover the range of a channel."""
        kernel = ops.convert_to_tensor(kernel, "float32")
        low, high = self._range(kernel) if self.deployable else _extremes(kernel, self.log_scale)
        extent = ops.convert_to_numpy(ops.reshape(high - low, self.log_scale.shape))
        step = np.maximum(extent / np.float64(steps), 2.0**SMALLEST_LOG_SCALE)
        return np.float32(np.ceil(256.0 * np.log2(step)) / 256.0)

    def _steps(self, bits: float) -> float:
        """The number of steps in a grid of `bits`; whole steps lose one to be symmetric."""
        return float(2.0**bits - (2.0 if self.deployable and not self.half_steps else 1.0))

    def extent(self, x: Tensor) -> Tensor:
        """The range of each channel's grid; the range of its weights if the offset is free."""
        kernel = ops.convert_to_tensor(x, "float32")
        if not self.deployable:
            low, high = _extremes(kernel, self.log_scale)
            return high - low
        grid = self.weight_grid(kernel)
        return grid.unit * grid.stride * ops.maximum(grid.steps, 1.0)

    def weight_grid(self, kernel: Tensor) -> WeightGrid:
        """The snapped grid of a kernel."""
        return snapped_weight_grid(
            self.prepare(ops.convert_to_tensor(kernel, "float32")),
            self.log_scale,
            self.half_steps,
            *self._held(),
        )

    def codes(self, x: Tensor) -> Tensor:
        """The integer code of every weight, int32.

        Raises:
            LoweringError: the offset is free.
        """
        self._check_snapped()
        kernel = self.prepare(ops.convert_to_tensor(x, "float32"))
        return ops.cast(self.weight_grid(kernel).codes(kernel), "int32")

    def largest_code(self, kernel: Tensor) -> Tensor:
        """See `WeightQuantizer`; larger in a channel with more levels than the target."""
        grid = self.weight_grid(kernel)
        highest = grid.lowest + grid.stride * grid.steps
        learned = ops.reshape(ops.maximum(-grid.lowest, highest), self.log_scale.shape)
        return ops.maximum(learned, float(super().largest_code(kernel)))

    def learned_bits(self, kernel: Tensor) -> int:
        return max(1, math.ceil(math.log2(float(ops.max(self.levels(kernel))))))

    def deployed_codes(self, kernel: Tensor, name: str) -> npt.NDArray[np.int32]:
        self._check_snapped(name)
        self._check_in_table(name)
        codes = np.asarray(ops.convert_to_numpy(self.codes(kernel)))
        largest = int(np.max(np.abs(codes)))
        if largest > WEIGHT_MAX:
            found = float(np.max(ops.convert_to_numpy(self.levels(kernel))))
            raise LoweringError(
                f"The weights of layer {name!r} have learned {described_levels(found)} in their "
                f"widest channel, with codes up to {largest}; int8 holds {WEIGHT_MAX}. Their "
                f"target is {self.target_bits} bits: {HOW_TO_MEET}"
            )
        return codes

    def fake_quantize(
        self,
        x: Tensor,
        rounding: Rounding,
        selection: Selection | None = None,
        noise_sign: Tensor | None = None,
    ) -> Tensor:
        """See `Quantizer.fake_quantize`; here `rounding` gets positions instead of `x / scale`.

        Args:
            x: the kernel.
            rounding: `(position, grid) -> whole positions`, in steps from the lowest code.
            selection: `noise in steps -> which weights are quantized`; `None` for all.
            noise_sign: +-1/2 for each weight; `None` leaves the random term out.
        """
        told: tuple[Any, ...] = (self._noise_now(noise_sign), rounding, selection)
        if not self.deployable:
            return fake_quantize_weights(x, self.log_scale, *told)
        held: tuple[Any, Any] = self._held()
        return fake_quantize_snapped_weights(x, self.log_scale, self.half_steps, *held, *told)

    def position(self, x: Tensor) -> Tensor:
        kernel = self.prepare(ops.convert_to_tensor(x, "float32"))
        if self.deployable:
            grid = self.weight_grid(kernel)
            unit, lowest = ops.stop_gradient(grid.unit), ops.stop_gradient(grid.lowest)
            return (kernel / unit - lowest) / grid.stride
        low, _ = _extremes(kernel, self.log_scale)
        return (kernel - ops.stop_gradient(low)) / ops.stop_gradient(self.step)

    def discretization_error(self, x: Tensor) -> Tensor:
        """`mean((w - w_hat)**2)` in ranges; weights that the grid cuts off count as 0."""
        kernel = ops.convert_to_tensor(x, "float32")
        if self.deployable:
            grid = self.weight_grid(kernel)
            position, steps = ops.clip(grid.position(kernel), 0.0, grid.steps), grid.steps
        else:
            low, high = _extremes(kernel, self.log_scale)
            position, steps = (kernel - low) / self.step, ops.round((high - low) / self.step)
        error = (position - ops.round(position)) / ops.maximum(steps, 1.0)
        return ops.mean(ops.square(error))

    def _held(self) -> tuple[Tensor, Tensor]:
        return self.held(), as_tensor(self.held_middle)

    def _range(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        return weight_range(kernel, self._logarithms, self.half_steps)  # only their shape matters


def _extremes(kernel: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest of the weights that share a step."""
    axes = sharing_axes(kernel, log_scale)
    return ops.min(kernel, axis=axes), ops.max(kernel, axis=axes)
