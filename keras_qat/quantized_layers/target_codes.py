"""An op with weights in inference as a target's kernel computes it: sums of codes, rescaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_qat.integer.op_numbers import (
    WEIGHT_MAX,
    LearnedChannels,
    StoredChannels,
    fixed_point_multiplier,
    power_of_two,
    stored_channels,
    within_int32,
)
from keras_qat.integer.storage_sizes import INT4_MAX, INT4_MIN
from keras_qat.keras_fixed_point import Rescaling
from keras_qat.lowering.affine import wide_inference_affine
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid
from keras_qat.tensors import Tensor
from keras_qat.wide_numbers import in_wide_numbers, wide

LEVELS = 256
EXACT_IN_FLOAT32 = 1 << 24
_HALF_A_CODE = 16

Forward = Callable[[Tensor, Tensor], Tensor]
"""`(input, kernel) -> sums`, the kernel with its output channels last."""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """What is around an op with weights.

    Attributes:
        before: the layer that puts the input on its grid.
        affines: the affine maps that are folded into the op.
        behind: the quantizer of the result.
        relu: whether a ReLU is fused into the op.
        ceiling: the ceiling of that ReLU; `None` without one.
    """

    before: PutsOnGrid
    affines: Sequence[Any]
    behind: ActivationQuantizer
    relu: bool
    ceiling: float | None


@in_wide_numbers
def values_of_target(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    forward: Forward,
    around: Neighbours,
    may_be_int4: bool,
    input_gain: float = 1.0,
    one_scale: bool = False,
) -> Tensor:
    """The output of the op and its neighbours, on the grid behind them, as the target rounds it.

    Args:
        x: the input, on the grid before the op.
        codes: the learned integers of the kernel, output channels last.
        scale: the real value of one code, of every channel or of all.
        bias: the latent bias; `None` without one.
        forward: the op in float, without bias.
        around: the neighbours.
        may_be_int4: whether the file stores the weights as INT4 if they fit.
        input_gain: a factor of `scale`.
        one_scale: whether the file has one scale for all channels.
    """
    input_scale, output_scale = (wide(each.scale) for each in (around.before, around.behind))
    scale = wide(scale) * input_gain
    learned, sign = _learned_channels(codes, scale, bias, around.affines)
    learned = dataclasses.replace(learned, one_scale=one_scale)
    reach = _reach(around.before)
    fitted, counts, _ = within_int32(ops, learned, input_scale, output_scale, reach)
    stated = dataclasses.replace(fitted, scale=wide(ops.cast(fitted.scale, "float32")))
    kernel = ops.cast(codes, "float32") * ops.cast(sign * wide(counts), "float32")
    stored = stored_channels(ops, stated, input_scale, output_scale)
    if may_be_int4:
        narrow = stored_channels(ops, stated, input_scale, output_scale, INT4_MAX)
        stored = _either(_fits_int4(kernel), narrow, stored)
    mantissa, shift = fixed_point_multiplier(ops, stored.multiplier)

    sums = _exact_sums(_codes_on(x, around.before), kernel, forward, fitted.total, reach)
    largest = fitted.total * reach * power_of_two(ops, stored.headroom) + ops.abs(stored.bias)
    rescaling = Rescaling(
        stored.headroom,
        stored.bias,
        mantissa,
        shift,
        largest,
        _reach(around.behind),
        positive=around.relu,
    )
    return on_grid_behind(rescaling.steps(sums), around.behind, around.relu, around.ceiling)


def on_grid_behind(
    steps: Tensor, behind: ActivationQuantizer, relu: bool = False, ceiling: float | None = None
) -> Tensor:
    """Whole steps as values on a grid, clamped to its ends and by a fused activation.

    A kernel clamps to the code of the ceiling, rounded half up.
    """
    ends = behind.forward_grid()
    low = ops.maximum(ends.qmin, 0) if relu else ends.qmin
    high = ends.qmax
    if ceiling is not None:
        high = ops.minimum(high, ops.floor(ceiling / behind.scale + 0.5))
    low, high = (ops.cast(each, "float32") for each in (low, high))
    return ops.minimum(ops.maximum(steps, low), high) * behind.scale


def _learned_channels(
    codes: Tensor, scale: Tensor, bias: Tensor | None, affines: Sequence[Any]
) -> tuple[LearnedChannels, Tensor]:
    """The channels with affine maps folded in, and the signs of the gains."""
    magnitudes = ops.reshape(ops.abs(ops.cast(codes, "int64")), (-1, codes.shape[-1]))
    total, largest = (wide(each) for each in (ops.sum(magnitudes, 0), ops.max(magnitudes, 0)))
    channels = ops.ones_like(total)
    scale, bias = scale * channels, 0.0 * channels if bias is None else wide(bias)
    sign = channels
    for layer in affines:
        gain, offset = wide_inference_affine(layer)
        scale, bias = scale * ops.abs(gain), bias * gain + offset
        sign = sign * ops.sign(gain)
    alive = ops.abs(sign)
    return LearnedChannels(total * alive, largest * alive, scale, bias), sign


def _fits_int4(kernel: Tensor) -> Tensor:
    return ops.logical_and(ops.all(kernel >= INT4_MIN), ops.all(kernel <= INT4_MAX))


def _either(condition: Tensor, if_true: StoredChannels, if_false: StoredChannels) -> StoredChannels:
    return StoredChannels(
        ops.where(condition, if_true.headroom, if_false.headroom),
        ops.where(condition, if_true.bias, if_false.bias),
        ops.where(condition, if_true.multiplier, if_false.multiplier),
    )


def _exact_sums(
    x: Tensor, kernel: Tensor, forward: Forward, total: Tensor, reach: Tensor
) -> Tensor:
    """The sums of products of codes, float64. Float32 is exact below `2**24`.

    For larger sums the inputs are split into `16 * high + low`. Where that is not enough either,
    the products are float64.
    """

    def whole(sums: Tensor) -> Tensor:
        return wide(ops.round(sums))

    def at_once() -> Tensor:
        return whole(forward(x, kernel))

    def in_halves() -> Tensor:
        high = ops.floor(x / _HALF_A_CODE)
        low = x - high * _HALF_A_CODE
        return whole(forward(high, kernel)) * _HALF_A_CODE + whole(forward(low, kernel))

    taps = int(np.prod(kernel.shape[:-1]))
    if taps * WEIGHT_MAX * (LEVELS - 1) < EXACT_IN_FLOAT32:
        return at_once()
    if taps * WEIGHT_MAX * _HALF_A_CODE >= EXACT_IN_FLOAT32:
        return whole(forward(wide(x), wide(kernel)))
    return ops.cond(ops.max(total) * reach < EXACT_IN_FLOAT32, at_once, in_halves)


def _codes_on(x: Tensor, grid: PutsOnGrid) -> Tensor:
    """The codes of values that are on a grid, as floats."""
    return ops.round(ops.cast(x, "float32") / grid.scale)


def _reach(grid: PutsOnGrid) -> Tensor:
    """The largest magnitude of a code."""
    ends = grid.forward_grid()
    return ops.maximum(wide(ends.qmax), -wide(ends.qmin))
