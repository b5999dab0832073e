"""GDNSQ's published grids, with gradients for their step, their range and their offset.

The grid has the step `s = 2**log_scale` and starts at the offset `z`, a real number:
`v = (clip(x, lower, upper) - z) / s`, `q = round(v)` (ties to even), `x_hat = s * q + z`.
Each function states its whole gradient in closed form, from `passed`, `lost` and `slope` of
`keras_qat.quantizers.gdnsq.noise_model`.

Parameters broadcast against `x` from the last axis on: a shape `()` or `(1,)` is one number for
the tensor, `(channels,)` one per channel of the last axis. Sums run over the elements that share a
number.

These grids are for training and comparison only. Their offset is not a whole number of steps, and
compilers may fuse `s * q + z`, which changes the last bit. So nothing here is exact in integers.

Source: GDNSQ (arXiv 2508.14004), its published code.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.gdnsq.noise_model import STRAIGHT_THROUGH, NoiseModel, Residual
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.power_of_two import power_of_two
from keras_qat.quantizers.reductions import sharing_axes, sum_to_shape
from keras_qat.quantizers.replacement import Selection, select
from keras_qat.tensors import Tensor

LN2 = math.log(2.0)


def fake_quantize_weights(
    weights: Tensor,
    log_scale: Tensor,
    noise: NoiseModel = STRAIGHT_THROUGH,
    rounding: Rounding = round_to_codes,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize on a grid that starts at the smallest weight; nothing is clipped.

    Forward: `z = min(w)` over the weights that share a step, `w_hat = s * round((w - z) / s) + z`.
    Backward: `dlog_scale = ln(2) * s * sum slope` and
    `dw = passed + [w == z] / ties * sum lost`. The `ties` weights at the minimum share equally.

    Args:
        weights: float tensor.
        log_scale: base-2 logarithm of the step, of shape `(channels,)` (output channels) or `()`.
        noise: the `NoiseModel` of the backward pass.
        rounding: rounds positions, in steps from the smallest weight, to whole numbers.
        selection: `noise -> which weights are quantized`; `None` for all.

    >>> [float(v) for v in fake_quantize_weights([-0.5, -0.1, 0.6], 0.0)]
    [-0.5, -0.5, 0.5]
    """

    @custom_gradient
    def fake_quantize(weights: Tensor, log_scale: Tensor) -> Any:
        scale = power_of_two(log_scale)
        sharing = sharing_axes(weights, log_scale)
        smallest = ops.min(weights, axis=sharing, keepdims=True)
        position = (weights - smallest) / scale

        def count() -> Tensor:
            return ops.maximum(ops.max(ops.round(position), axis=sharing, keepdims=True), 1.0)

        if rounding is round_to_codes:
            code = ops.round(position)  # no position is beyond the grid
        else:
            code = rounding(position, Grid(0, count()))
        code, selected = select(selection, position, code)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            step = noise.step_of(scale, count(), weights, log_scale)
            residual = Residual(code - position, position, selected=selected)
            passed, lost, slope = noise.backward(upstream, residual, log_scale, step)
            if lost is not None:
                at_minimum = ops.cast(weights == smallest, weights.dtype)
                ties = ops.sum(at_minimum, axis=sharing, keepdims=True)
                passed += at_minimum * (ops.sum(lost, axis=sharing, keepdims=True) / ties)
            return passed, LN2 * scale * slope

        return code * scale + smallest, gradient

    return fake_quantize(weights, log_scale)


def fake_quantize_activations(
    x: Tensor,
    offset: Tensor,
    log_scale: Tensor,
    log_range: Tensor,
    signed: bool = True,
    noise: NoiseModel = STRAIGHT_THROUGH,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize on a grid from `offset` to `offset + range - s`, with both ends learned.

    Forward: `b = offset`, `Q = 2**log_range`, `upper = b + Q - s`,
    `x_hat = s * round((clip(x, b, upper) - b) / s) + b`. There is no `rounding` argument, because
    no kernel of a runtime computes on such a grid.
    Backward, with `above = [x > upper]` and `inside = [b <= x <= upper]`:
    `dx = passed * inside`, `doffset = sum(g - dx)`, `dlog_range = ln(2) * Q * sum passed * above`,
    `dlog_scale = ln(2) * s * (sum slope - sum passed * above)`.

    Args:
        x: float tensor of any shape.
        offset: the smallest value of the grid, in the units of `x`.
        log_scale, log_range: base-2 logarithms; their difference is the bit width.
        signed: whether the offset gets a gradient.
        noise: the `NoiseModel` of the backward pass.
        selection: `noise -> which elements are quantized`; `None` for all.

    >>> [float(v) for v in fake_quantize_activations([-9.0, 0.6, 9.0], 0.0, 0.0, 2.0)]
    [0.0, 1.0, 3.0]
    """

    @custom_gradient
    def fake_quantize(x: Tensor, offset: Tensor, log_scale: Tensor, log_range: Tensor) -> Any:
        scale, width = power_of_two(log_scale), power_of_two(log_range)
        upper = offset + width - scale
        position = (ops.minimum(ops.maximum(x, offset), upper) - offset) / scale
        code, selected = select(selection, position, ops.round(position))

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            step = noise.step_of(scale, width / scale - 1.0, x, log_scale)
            residual = Residual(code - position, position, selected=selected)
            passed, _, slope = noise.backward(upstream, residual, log_scale, step)
            # The masks are factors, because where() takes three times as long.
            dx = passed * ops.cast(x <= upper, x.dtype)
            above = passed - dx
            dx = dx * ops.cast(x >= offset, x.dtype)
            return (
                dx,
                sum_to_shape(upstream - dx, offset) if signed else ops.zeros_like(offset),
                LN2 * scale * (slope - sum_to_shape(above, log_scale)),
                LN2 * width * sum_to_shape(above, log_range),
            )

        return code * scale + offset, gradient

    return fake_quantize(x, offset, log_scale, log_range)
