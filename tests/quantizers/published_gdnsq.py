"""What the published code of GDNSQ states beside its grids, which vectors of it hold.

Source: GDNSQ (arXiv 2508.14004), its published code; `meets_bits` is our own test.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.gdnsq.bit_width import extent_bit_width, levels, weight_extent
from keras_qat.quantizers.gdnsq.noise_model import STRAIGHT_THROUGH, NoiseModel, Residual
from keras_qat.quantizers.gdnsq.published_grids import LN2
from keras_qat.quantizers.power_of_two import power_of_two
from keras_qat.quantizers.reductions import sharing_axes, sum_to_shape
from keras_qat.quantizers.replacement import Selection, select

Tensor = Any


def fake_quantize_affine(
    x: Tensor,
    log_scale: Tensor,
    zero_point: Tensor,
    lower: Tensor,
    upper: Tensor,
    noise: NoiseModel = STRAIGHT_THROUGH,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize on the grid `zero_point + s * {0, 1, ...}`, clipped to `[lower, upper]`.

    Backward, with `inside = [lower <= x <= upper]`: `dx = passed * inside`,
    `dlower = sum passed * [x < lower]`, `dupper = sum passed * [x > upper]`,
    `dzero_point = sum lost`, `dlog_scale = ln(2) * s * sum slope`.

    Args:
        x: float tensor of any shape.
        log_scale: base-2 logarithm of the step, `s`.
        zero_point, lower, upper: in the units of `x`; gradients are those of each alone.
        noise: what the gradients make of the noise.
        selection: `noise -> which elements are quantized`; `None` for all.

    >>> x_hat = fake_quantize_affine([-1.0, 0.7, 9.0], -1.0, 0.0, 0.0, 1.5)
    >>> [float(v) for v in x_hat]
    [0.0, 0.5, 1.5]
    """

    @custom_gradient
    def fake_quantize(
        x: Tensor, log_scale: Tensor, zero_point: Tensor, lower: Tensor, upper: Tensor
    ) -> Any:
        scale = power_of_two(log_scale)
        position = (_clip(x, lower, upper) - zero_point) / scale
        code, selected = select(selection, position, ops.round(position))

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            step = noise.step_of(scale, (upper - lower) / scale, x, log_scale)
            residual = Residual(code - position, position, selected=selected)
            passed, lost, slope = noise.backward(upstream, residual, log_scale, step)
            below, above = x < lower, x > upper
            return (
                ops.where(ops.logical_or(below, above), 0.0, passed),
                LN2 * scale * slope,
                ops.zeros_like(zero_point) if lost is None else sum_to_shape(lost, zero_point),
                sum_to_shape(ops.where(below, passed, 0.0), lower),
                sum_to_shape(ops.where(above, passed, 0.0), upper),
            )

        return code * scale + zero_point, gradient

    return fake_quantize(x, log_scale, zero_point, lower, upper)


def weight_codes(weights: Tensor, log_scale: Tensor) -> Tensor:
    """The codes of `fake_quantize_weights`, int32, 0 at the smallest weight.

    >>> [int(v) for v in weight_codes([-0.5, -0.1, 0.6], 0.0)]
    [0, 0, 1]
    """
    weights, log_scale = ops.convert_to_tensor(weights), ops.convert_to_tensor(log_scale)
    smallest = ops.min(weights, axis=sharing_axes(weights, log_scale), keepdims=True)
    return ops.cast(ops.round((weights - smallest) / power_of_two(log_scale)), "int32")


def activation_codes(x: Tensor, offset: Tensor, log_scale: Tensor, log_range: Tensor) -> Tensor:
    """The codes of `fake_quantize_activations`, int32, 0 at the offset.

    >>> [int(v) for v in activation_codes([-9.0, 0.6, 9.0], 0.0, 0.0, 2.0)]
    [0, 1, 3]
    """
    scale = power_of_two(log_scale)
    upper = offset + power_of_two(log_range) - scale
    return ops.cast(ops.round((_clip(x, offset, upper) - offset) / scale), "int32")


def weight_log_range(weights: Tensor, log_scale: Tensor) -> Tensor:
    """`log2(R + s)` with `R = max(w) - min(w)` over the weights that share a step.

    Backward: `d / d max(w) = -d / d min(w) = 1 / (ln(2) * (R + s))`, equal extremes share;
    `d / d log_scale = s / (R + s)`.

    Returns: a tensor of the shape of `log_scale`.

    >>> float(weight_log_range([-1.0, 2.0], 0.0))
    2.0
    """
    weights, log_scale = ops.convert_to_tensor(weights), ops.convert_to_tensor(log_scale)
    return ops.log2(weight_extent(weights, log_scale) + power_of_two(log_scale))


def weight_bit_width(weights: Tensor, log_scale: Tensor) -> Tensor:
    """The real-valued width of weights in bits, `log2(R / s + 1)`; `R = max(w) - min(w)`.

    Backward: `d / d log_scale = -R / (R + s)`; as in `weight_log_range` for the weights.

    Returns: a tensor of the shape of `log_scale`.

    >>> float(weight_bit_width([-1.0, 2.0], 0.0))
    2.0
    """
    weights, log_scale = ops.convert_to_tensor(weights), ops.convert_to_tensor(log_scale)
    return extent_bit_width(weight_extent(weights, log_scale), log_scale)


def true_bit_width(codes: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """The width that numbers the codes seen, `log2(max(q) - min(q) + 1)`, over those axes.

    >>> float(true_bit_width([3, 5, 6]))
    2.0
    """
    codes = ops.cast(codes, "float32")
    return ops.log2(ops.max(codes, axis=axis) - ops.min(codes, axis=axis) + 1.0)


def meets_bits(range_over_scale: Tensor, bits: int) -> Tensor:
    """Whether codes of that many bits number every level: `round(R / s) + 1 <= 2**bits`.

    For weights `R / s = 2**weight_bit_width - 1`, for activations `2**activation_bit_width - 1`.
    A real-valued width is thus accepted below `widest_accepted(bits)`. It needs no data: an upper
    bound of what codes seen in a batch would tell.

    >>> [bool(v) for v in meets_bits([3.4, 3.6], bits=2)]
    [True, False]
    """
    return levels(range_over_scale) <= 2.0**bits


def widest_accepted(bits: int) -> float:
    """The real-valued width at which a target of that many bits starts to fail.

    `log2(2**bits + 1/2)`: at the very tie, rounding goes to the even code, one too many.

    >>> round(widest_accepted(1), 2), round(widest_accepted(4), 3)
    (1.32, 4.044)
    """
    return math.log2(2**bits + 0.5)


def _clip(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return ops.minimum(ops.maximum(x, lower), upper)
