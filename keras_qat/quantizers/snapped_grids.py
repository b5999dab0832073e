"""GDNSQ's fake-quantize functions on grids that integers state exactly.

They are the functions of `gdnsq_gradients` but for two things. The step `s` is an entry of a table
(`step_table`), and the grid's offset is a whole number of units, so that every value is
`code * unit` for an integer code. Gradients pass straight through both roundings: they are those
of the published grids, with the noise `e = (x_hat - x) / s` of these.

**Weights, half steps** (targets up to 6 bits). The unit is `s / 2` and the codes of a channel are
`lowest + {0, 2, 4, ...}`: their parity is free, so that one bit can be {-1, +1} as well as {0, 2}.
With `low = min(w, 0)` and `high = max(w, 0)` over the weights that share a step:

    steps = round((high - low) / s)        lowest = round((low + high) / s) - steps
    code = lowest + 2 * round((w / unit - lowest) / 2)

The grid is centred on the range. It has exactly the levels that the bit width counts, no weight is
farther than `s / 2` from its code, a symmetric channel gets symmetric codes, and as zero is in the
range `abs(code) <= 2 * steps`: at 6 bits 126, which int8 holds. Where `level_limit` cuts levels
off, the middle `lowest + steps` stays within `+-steps`, and with it this bound.

**Weights, whole steps** (7 and 8 bits, where half steps do not fit in int8). The unit is `s`, the
range is `-max|w|` to `max|w|`, and `code = round(w / s)`.

**Activations.** The unit is `s`; the range holds zero, which thus is a code: zero padding is exact.

    steps = round(2**(log_range - log_scale) - 1)      lowest = clip(round(offset / s), -steps, 0)
    code = round(clip(x / s, lowest, lowest + steps))

`level_limit` bounds `steps + 1` everywhere. Source of the method: GDNSQ (arXiv 2508.14004); these
grids are our own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.estimators import Rounding
from keras_qat.quantizers.fake_quantize import Grid, round_to_codes
from keras_qat.quantizers.gdnsq_gradients import noise_backward
from keras_qat.quantizers.noise_estimators import NoiseEstimator
from keras_qat.quantizers.sharing import sharing_axes, sum_over_sharing
from keras_qat.quantizers.step_table import learned_step, table_index, table_value

Tensor = Any

NO_LIMIT = 2.0**22
_LN2 = math.log(2.0)


class WeightGrid(NamedTuple):
    """The grid of each channel; `steps` before and after the level limit."""

    unit: Tensor
    lowest: Tensor
    steps: Tensor
    unlimited_steps: Tensor
    stride: int

    def position(self, weights: Tensor) -> Tensor:
        """Where weights are on their grid, in steps from its lowest code."""
        return (weights / self.unit - self.lowest) / self.stride

    def codes(self, weights: Tensor) -> Tensor:
        """The nearest codes, as floats: ties to an even number of steps."""
        nearest = ops.clip(ops.round(self.position(weights)), 0.0, self.steps)
        return nearest * self.stride + self.lowest


def weight_range(weights: Tensor, log_scale: Tensor, half_steps: bool) -> tuple[Tensor, Tensor]:
    """`(low, high)` of the grid of weights, zero included; differentiable.

    Returns: two tensors of the rank of `weights`, with size 1 along the axes that share a step.

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
    weights: Tensor, log_scale: Tensor, half_steps: bool, level_limit: Tensor = NO_LIMIT
) -> WeightGrid:
    """The grid of weights; in half steps, one that is not all zeros has two levels or more.

    >>> grid = snapped_weight_grid([-0.5, 0.4, 0.5], 0.0, half_steps=True)
    >>> [float(v) for v in grid.codes([-0.5, 0.4, 0.5])], float(grid.unit)
    ([-1.0, 1.0, 1.0], 0.5)
    """
    scale = learned_step(log_scale)
    low, high = weight_range(weights, log_scale, half_steps)
    if half_steps:
        unlimited = ops.round((high - low) / scale)
        unlimited = ops.where(high > low, ops.maximum(unlimited, 1.0), 0.0)
        steps = ops.minimum(unlimited, level_limit - 1.0)
        middle = ops.clip(ops.round((low + high) / scale), -steps, steps)
        return WeightGrid(scale * 0.5, middle - steps, steps, unlimited, stride=2)
    unlimited = ops.round(high / scale)
    reach = ops.minimum(unlimited, ops.floor((level_limit - 1.0) / 2.0))
    return WeightGrid(scale, -reach, 2.0 * reach, 2.0 * unlimited, stride=1)


def fake_quantize_snapped_weights(
    weights: Tensor,
    log_scale: Tensor,
    half_steps: bool = True,
    level_limit: Tensor = NO_LIMIT,
    estimator: str | NoiseEstimator = "ste",
    noise_sign: Tensor | None = None,
    noise_gradient: str = "head",
) -> Tensor:
    """Fake-quantize weights on their snapped grid.

    Forward: `w_hat = unit * code`, see the module. Backward, with `v = (w / unit - lowest) /
    stride`, its code and `passed`, `lost`, `slope` as in `gdnsq_gradients`:
    `dlog_scale = ln(2) * s * sum slope`, `dw = passed + [w == low] / ties * sum lost`; with whole
    steps `v = w / s`, and nothing goes to an end of the range. A weight that the level limit cuts
    off is a constant of its code: `dw = 0`, `g * code / stride` is its part of the slope, and to
    the estimator and to the sum of `lost` it is a weight without noise and without gradient.

    Args:
        weights: float tensor.
        log_scale: base-2 logarithm of the step, of shape `()` or `(channels,)`.
        half_steps: codes in half steps, else whole steps on a symmetric range.
        level_limit: the most levels that a channel may have.
        estimator, noise_sign, noise_gradient: as in `gdnsq_gradients.fake_quantize_affine`.

    >>> [float(v) for v in fake_quantize_snapped_weights([-0.5, -0.1, 0.6], 0.0)]
    [-0.5, -0.5, 0.5]
    """
    backward = noise_backward(estimator, noise_sign, noise_gradient)

    @custom_gradient
    def fake_quantize(weights: Tensor, log_scale: Tensor) -> Any:
        grid = snapped_weight_grid(weights, log_scale, half_steps, level_limit)
        codes = grid.codes(weights)
        scale = learned_step(log_scale)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            sharing = sharing_axes(weights, log_scale)
            beyond = ops.abs(grid.position(weights) - 0.5 * grid.steps) > 0.5 * grid.steps + 0.5
            cut = ops.where(beyond, upstream, 0.0)
            code = codes / grid.stride
            position = ops.where(beyond, code, weights / grid.unit / grid.stride)
            passed, lost, slope = backward(
                upstream - cut,
                position,
                code,
                log_scale,
                scale,
                sharing,
                origin=grid.lowest / grid.stride if half_steps else 0.0,
            )
            if lost is not None and half_steps:
                low, _ = weight_range(weights, log_scale, half_steps)
                at_low = ops.logical_and(weights == low, ops.logical_not(beyond))
                at_low = ops.cast(at_low, weights.dtype)
                ties = ops.maximum(ops.sum(at_low, axis=sharing, keepdims=True), 1.0)
                passed += at_low * (ops.sum(lost, axis=sharing, keepdims=True) / ties)
            return passed, _LN2 * scale * (slope + sum_over_sharing(cut * code, log_scale))

        return codes * grid.unit, gradient

    return fake_quantize(weights, log_scale)


def snapped_activation_grid(
    offset: Tensor, log_scale: Tensor, log_range: Tensor, level_limit: Tensor = NO_LIMIT
) -> tuple[Tensor, Grid]:
    """`(step, grid)`; the ends of the grid are float scalars. It has two levels or more.

    >>> step, grid = snapped_activation_grid(-0.7, -1.0, 1.0)
    >>> float(step), float(grid.qmin), float(grid.qmax)
    (0.5, -1.0, 2.0)
    """
    scale_index, range_index = table_index(log_scale), table_index(log_range)
    scale = table_value(scale_index)
    steps = ops.round(table_value(range_index - scale_index) - 1.0)
    steps = ops.clip(steps, 1.0, level_limit - 1.0)
    lowest = ops.clip(ops.round(offset / scale), -steps, 0.0)
    return scale, Grid(lowest, lowest + steps)


def fake_quantize_snapped_activations(
    x: Tensor,
    offset: Tensor,
    log_scale: Tensor,
    log_range: Tensor,
    signed: bool = True,
    level_limit: Tensor = NO_LIMIT,
    estimator: str | NoiseEstimator = "ste",
    noise_sign: Tensor | None = None,
    noise_gradient: str = "head",
    rounding: Rounding = round_to_codes,
) -> Tensor:
    """Fake-quantize activations on their snapped grid.

    Forward: `x_hat = s * code`, see the module. Backward, with the ends `b = s * lowest` and
    `t = s * (lowest + steps)` of the grid, `above = [x > t]` and `inside = [b <= x <= t]`:
    `dx = passed * inside`, `doffset = sum(g - dx)`, `dlog_range = ln(2) * Q * sum passed * above`
    with `Q = 2**log_range`, `dlog_scale = ln(2) * s * (sum slope - sum passed * above)`. Where
    the level limit holds, the upper end is a number of steps: `dlog_range = 0` and
    `dlog_scale = ln(2) * s * (sum slope + steps * sum passed * above)`.

    Args:
        x: float tensor of any shape.
        offset: the smallest value, in the units of `x`; scalar, 0 or below.
        log_scale, log_range: base-2 logarithms, scalars.
        signed: False keeps the offset where it is: it gets no gradient.
        level_limit: the most levels that the grid may have.
        estimator, noise_sign, noise_gradient: as in `gdnsq_gradients.fake_quantize_affine`.
        rounding: of `x / s` to codes of a grid.

    >>> [float(v) for v in fake_quantize_snapped_activations([-9.0, 0.6, 9.0], -0.9, 0.0, 2.0)]
    [-1.0, 1.0, 2.0]
    """
    backward = noise_backward(estimator, noise_sign, noise_gradient)

    @custom_gradient
    def fake_quantize(x: Tensor, offset: Tensor, log_scale: Tensor, log_range: Tensor) -> Any:
        scale, grid = snapped_activation_grid(offset, log_scale, log_range, level_limit)
        ratio = x / scale
        code = rounding(ratio, grid)

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            position = ops.clip(ratio, grid.qmin, grid.qmax)
            passed, _, slope = backward(
                upstream, position, code, log_scale, scale, sharing_axes(x, log_scale), grid.qmin
            )
            # Masks as factors: a choice by where() takes three times as long.
            dx = passed * ops.cast(position == ratio, x.dtype)
            cut = ops.sum(passed * ops.cast(ratio > grid.qmax, x.dtype))
            width = table_value(table_index(log_range))
            held = width / scale > level_limit + 0.5
            end = ops.where(held, grid.qmax - grid.qmin, -1.0)
            return (
                dx,
                ops.sum(upstream) - ops.sum(dx) if signed else ops.zeros_like(offset),
                _LN2 * scale * (slope + end * cut),
                _LN2 * width * ops.where(held, 0.0, cut),
            )

        return code * scale, gradient

    return fake_quantize(x, offset, log_scale, log_range)
