"""GDNSQ's fake-quantize functions on grids that integers state exactly.

They differ from the functions of `published_grids` in two points. The step `s` is an entry of a
table (`step_table`). The grid's offset is a whole number of units, so that every value is
`code * unit` for an integer code. Gradients pass straight through both roundings: they have the
formulas of the published grids, with the noise `e = (x_hat - x) / s` of these grids.

**Weights, half steps** (targets up to 6 bits). The unit is `s / 2` and the codes of a channel are
`lowest + {0, 2, 4, ...}`. They may be even or odd, so that one bit can be {-1, +1} as well as
{0, 2}. With `low = min(w, 0)` and `high = max(w, 0)` over the weights that share a step:

    steps = round((high - low) / s)        lowest = round((low + high) / s) - steps
    code = lowest + 2 * round((w / unit - lowest) / 2)

The grid is centred on the range, and has exactly the levels that the bit width counts. No weight is
farther than `s / 2` from its level, and a symmetric channel gets symmetric codes. The range holds
zero, so `abs(code) <= 2 * steps`: at 6 bits at most 126, which int8 holds.

**Weights, whole steps** (7 and 8 bits, where half steps do not fit in int8). The unit is `s`, the
range is `-max|w|` to `max|w|`, and `code = round(w / s)`.

**Activations.** The unit is `s`. The range holds zero, so 0 is a code, and zero padding is exact.

    steps = round(2**(log_range - log_scale) - 1)      lowest = clip(round(offset / s), -steps, 0)
    code = round(clip(x / s, lowest, lowest + steps))

**Held grids** have `held_levels` levels for any range, and cut off the values beyond. In half
steps, the codes of weights then stay centred on `held_middle`. So a grid that met its target only
scales with its step. A grid that followed its weights would sometimes move by half a step, and all
codes of the channel with it.

Source of the method: GDNSQ (arXiv 2508.14004). These grids are our own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.fake_quantize import Rounding, mixed_codes
from keras_qat.quantizers.gdnsq.noise_model import STRAIGHT_THROUGH, NoiseModel, Residual
from keras_qat.quantizers.gdnsq.published_grids import LN2
from keras_qat.quantizers.gdnsq.step_table import learned_step, table_index, table_value
from keras_qat.quantizers.grid import (
    Grid,
    clipped_to_grid,
    round_nonnegative_to_codes,
    round_to_codes,
)
from keras_qat.quantizers.reductions import sharing_axes, sum_to_shape
from keras_qat.quantizers.replacement import Selection
from keras_qat.tensors import Tensor

NOT_HELD = 0.0
"""The number of held levels of a grid that follows its parameters."""


class WeightGrid(NamedTuple):
    """The grid of each channel: codes `lowest + stride * {0, ..., steps}` in units."""

    unit: Tensor
    lowest: Tensor
    steps: Tensor
    stride: int

    def position(self, weights: Tensor) -> Tensor:
        """The positions of weights on their grid, in steps from its lowest code."""
        return (weights / self.unit - self.lowest) / self.stride

    def codes(self, weights: Tensor) -> Tensor:
        """The nearest codes, as floats; ties go to an even number of steps."""
        return self.mixed_codes(weights, round_to_codes, None)[0]

    def mixed_codes(
        self, weights: Tensor, rounding: Rounding, selection: Selection | None
    ) -> tuple[Tensor, Tensor | None]:
        """Codes of the selected weights, positions of the others, and which are selected.

        `rounding` gets positions, and rounds them to `0, 1, ..., steps`.
        """
        steps = Grid(0, self.steps)
        position, selected = mixed_codes(self.position(weights), steps, rounding, selection)
        return position * self.stride + self.lowest, selected


def weight_range(weights: Tensor, log_scale: Tensor, half_steps: bool) -> tuple[Tensor, Tensor]:
    """The range `(low, high)` of weights, zero included; differentiable.

    Returns: two tensors with the rank of `weights` and size 1 along the axes that share a step.

    >>> low, high = weight_range([0.5, 2.0], 0.0, half_steps=True)
    >>> float(low[0]), float(high[0])
    (0.0, 2.0)
    """
    weights, log_scale = ops.convert_to_tensor(weights), ops.convert_to_tensor(log_scale)
    axes = sharing_axes(weights, log_scale)
    if not half_steps:
        high = ops.max(ops.abs(weights), axis=axes, keepdims=True)
        return -high, high
    low = ops.minimum(ops.min(weights, axis=axes, keepdims=True), 0.0)
    return low, ops.maximum(ops.max(weights, axis=axes, keepdims=True), 0.0)


def snapped_weight_grid(
    weights: Tensor,
    log_scale: Tensor,
    half_steps: bool,
    held_levels: Tensor = NOT_HELD,
    held_middle: Tensor = 0.0,
) -> WeightGrid:
    """The grid of weights. In half steps, it has at least two levels unless all weights are zero.

    >>> grid = snapped_weight_grid([-0.5, 0.4, 0.5], 0.0, half_steps=True)
    >>> [float(v) for v in grid.codes([-0.5, 0.4, 0.5])], float(grid.unit)
    ([-1.0, 1.0, 1.0], 0.5)
    """
    scale = learned_step(log_scale)
    low, high = weight_range(weights, log_scale, half_steps)
    held = held_levels > 0.0
    if half_steps:
        steps = ops.maximum(ops.round((high - low) / scale), 1.0)
        steps = ops.where(held, held_levels - 1.0, steps)
        middle = ops.where(held, held_middle, ops.round((low + high) / scale))
        steps, middle = (ops.where(high > low, each, 0.0) for each in (steps, middle))
        return WeightGrid(scale * 0.5, middle - steps, steps, stride=2)
    reach = ops.where(held, ops.floor((held_levels - 1.0) / 2.0), ops.round(high / scale))
    return WeightGrid(scale, -reach, 2.0 * reach, stride=1)


def fake_quantize_snapped_weights(
    weights: Tensor,
    log_scale: Tensor,
    half_steps: bool = True,
    held_levels: Tensor = NOT_HELD,
    held_middle: Tensor = 0.0,
    noise: NoiseModel = STRAIGHT_THROUGH,
    rounding: Rounding = round_to_codes,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize weights on their snapped grid.

    Forward: `w_hat = unit * code`, as the module states. Backward:
    `dlog_scale = ln(2) * s * sum slope`, `dw = passed + [w == low] / ties * sum lost`, with
    `v = (w / unit - lowest) / stride` and `passed`, `lost`, `slope` of `noise_model`. With whole
    steps, and on a held grid, `v = w / s`, and `dw = passed`. A weight that a held grid cuts off
    depends only on its code: `dw = 0`, and its part of the slope is `g * code / stride`. The
    estimator sees it without noise and without gradient.

    Args:
        weights: float tensor.
        log_scale: base-2 logarithm of the step, of shape `()` or `(channels,)`.
        half_steps: whether codes are in half steps; if not, in whole steps on a symmetric range.
        held_levels: the number of levels of each channel; 0 while they follow the weights.
        held_middle: the middle code of a held grid, `()` or `(channels,)`.
        noise: the `NoiseModel` of the backward pass.
        rounding: rounds positions, in steps from the lowest code, to whole numbers.
        selection: `noise -> which weights are quantized`; `None` for all.

    >>> [float(v) for v in fake_quantize_snapped_weights([-0.5, -0.1, 0.6], 0.0)]
    [-0.5, -0.5, 0.5]
    """

    @custom_gradient
    def fake_quantize(weights: Tensor, log_scale: Tensor) -> Any:
        grid = snapped_weight_grid(weights, log_scale, half_steps, held_levels, held_middle)
        codes, selected = grid.mixed_codes(weights, rounding, selection)
        scale = grid.unit * grid.stride

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            sharing = sharing_axes(weights, log_scale)
            beyond = ops.abs(grid.position(weights) - 0.5 * grid.steps) > 0.5 * grid.steps + 0.5
            cut = ops.where(beyond, upstream, 0.0)
            code = codes / grid.stride
            position = ops.where(beyond, code, weights / grid.unit / grid.stride)
            follows = half_steps and held_levels <= 0.0
            origin = ops.where(follows, grid.lowest / grid.stride, 0.0)
            residual = Residual(code - position, position, origin=origin, selected=selected)
            step = noise.step_of(scale, ops.maximum(grid.steps, 1.0), weights, log_scale)
            passed, lost, slope = noise.backward(upstream - cut, residual, log_scale, step)
            if lost is not None and half_steps:
                low, _ = weight_range(weights, log_scale, half_steps)
                at_low = ops.cast(ops.logical_and(weights == low, follows), weights.dtype)
                ties = ops.maximum(ops.sum(at_low, axis=sharing, keepdims=True), 1.0)
                passed += at_low * (ops.sum(lost, axis=sharing, keepdims=True) / ties)
            return passed, LN2 * scale * (slope + sum_to_shape(cut * code, log_scale))

        return codes * grid.unit, gradient

    return fake_quantize(weights, log_scale)


class ActivationGrid(NamedTuple):
    """The grid of a tensor: the codes of `grid`, with float scalars as ends, times `step`.

    `width` is the learned range `Q = 2**log_range`.
    """

    step: Tensor
    width: Tensor
    grid: Grid


def snapped_activation_grid(
    offset: Tensor, log_scale: Tensor, log_range: Tensor, held_levels: Tensor = NOT_HELD
) -> ActivationGrid:
    """The grid of activations, with at least two levels.

    >>> step, width, grid = snapped_activation_grid(-0.7, -1.0, 1.0)
    >>> float(step), float(width), float(grid.qmin), float(grid.qmax)
    (0.5, 2.0, -1.0, 2.0)
    """
    scale_index, range_index = ops.unstack(table_index(ops.stack([log_scale, log_range])))
    indices = ops.stack([scale_index, range_index, range_index - scale_index])
    step, width, ratio = ops.unstack(table_value(indices))  # one look-up takes fewer nodes
    steps = ops.maximum(ops.round(ratio - 1.0), 1.0)
    steps = ops.where(held_levels > 0.0, held_levels - 1.0, steps)
    lowest = ops.clip(ops.round(offset / step), -steps, 0.0)
    return ActivationGrid(step, width, Grid(lowest, lowest + steps))


def fake_quantize_snapped_activations(
    x: Tensor,
    offset: Tensor,
    log_scale: Tensor,
    log_range: Tensor,
    signed: bool = True,
    held_levels: Tensor = NOT_HELD,
    noise: NoiseModel = STRAIGHT_THROUGH,
    rounding: Rounding = round_to_codes,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize activations on their snapped grid.

    Forward: `x_hat = s * code`, as the module states. Backward, with the ends `b = s * lowest` and
    `t = s * (lowest + steps)` of the grid, `above = [x > t]`, `inside = [b <= x <= t]`,
    `Q = 2**log_range` and `passed`, `slope` of `noise_model`: `dx = passed * inside`,
    `doffset = sum(g - dx)`, `dlog_range = ln(2) * Q * sum passed * above`,
    `dlog_scale = ln(2) * s * (sum slope - sum passed * above)`. The upper end of a held grid is a
    fixed number of steps: `dlog_range = 0` and
    `dlog_scale = ln(2) * s * (sum slope + steps * sum passed * above)`.

    Args:
        x: float tensor of any shape.
        offset: the smallest value, in the units of `x`; scalar, 0 or below.
        log_scale, log_range: base-2 logarithms, scalars.
        signed: whether the offset gets a gradient.
        held_levels: the number of levels; 0 while they follow the range.
        noise: the `NoiseModel` of the backward pass.
        rounding: rounds `x / s` to codes of a grid.
        selection: `noise -> which elements are quantized`; `None` for all.

    >>> [float(v) for v in fake_quantize_snapped_activations([-9.0, 0.6, 9.0], -0.9, 0.0, 2.0)]
    [-1.0, 1.0, 2.0]
    """

    @custom_gradient
    def fake_quantize(x: Tensor, offset: Tensor, log_scale: Tensor, log_range: Tensor) -> Any:
        scale, width, grid = snapped_activation_grid(offset, log_scale, log_range, held_levels)
        code, selected = mixed_codes(x / scale, grid, rounding, selection)
        x_hat = code * scale

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            # The masks are factors, because where() takes three times as long.
            below_top = ops.cast(x <= grid.qmax * scale, x.dtype)

            def split(values: Tensor) -> tuple[Tensor, Tensor]:
                """The values inside the grid, with zeros elsewhere, and the sum above it."""
                kept = values * below_top
                above = ops.sum(values) - ops.sum(kept)
                if rounding is not round_nonnegative_to_codes:
                    kept = kept * ops.cast(x >= grid.qmin * scale, x.dtype)
                return kept, above

            # This uses only `x` and `x_hat`, which the neighbouring layers keep anyway. Straight
            # through, `dx` is known before the noise and masks it, so `x` is not clipped again.
            straight = noise.estimator.passes_through
            nearest = x if straight else clipped_to_grid(x, grid, scale, rounding)
            dx, cut = split(upstream) if straight else (None, None)
            residual = Residual(x_hat - nearest, nearest / scale, scale, grid.qmin, selected)
            step = noise.step_of(scale, grid.qmax - grid.qmin, x, log_scale)
            passed, _, slope = noise.backward(upstream, residual, log_scale, step, noisy=dx)
            if not straight:
                dx, cut = split(passed)
            held = held_levels > 0.0
            end = ops.where(held, grid.qmax - grid.qmin, -1.0)
            return (
                dx,
                ops.sum(upstream) - ops.sum(dx) if signed else ops.zeros_like(offset),
                LN2 * scale * (slope + end * cut),
                LN2 * width * ops.where(held, 0.0, cut),
            )

        return x_hat, gradient

    return fake_quantize(x, offset, log_scale, log_range)
