"""Bit widths: real numbers to train by, whole level counts to judge by.

A range `R` in steps of `s` holds `round(R / s) + 1` levels. The real-valued width
`log2(R / s + 1)` can be pushed by a gradient; the true width is `log2(levels)`.
Source: GDNSQ (arXiv 2508.14004), its published code; `meets_bits` is our own test.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_qat.quantizers.power_of_two import power_of_two
from keras_qat.quantizers.reductions import sharing_axes

Tensor = Any


def weight_log_range(weights: Tensor, log_scale: Tensor) -> Tensor:
    """`log2(R + s)` with `R = max(w) - min(w)` over the weights that share a step.

    Backward: `d / d max(w) = -d / d min(w) = 1 / (ln(2) * (R + s))`, equal extremes share;
    `d / d log_scale = s / (R + s)`.

    Returns: a tensor of the shape of `log_scale`.

    >>> float(weight_log_range([-1.0, 2.0], 0.0))
    2.0
    """
    weights, log_scale = ops.convert_to_tensor(weights), ops.convert_to_tensor(log_scale)
    return _log_sum(weight_extent(weights, log_scale), log_scale)


def weight_bit_width(weights: Tensor, log_scale: Tensor) -> Tensor:
    """The real-valued width of weights in bits, `log2(R / s + 1)`; `R = max(w) - min(w)`.

    Backward: `d / d log_scale = -R / (R + s)`; as in `weight_log_range` for the weights.

    Returns: a tensor of the shape of `log_scale`.

    >>> float(weight_bit_width([-1.0, 2.0], 0.0))
    2.0
    """
    weights, log_scale = ops.convert_to_tensor(weights), ops.convert_to_tensor(log_scale)
    return extent_bit_width(weight_extent(weights, log_scale), log_scale)


def weight_extent(weights: Tensor, log_scale: Tensor) -> Tensor:
    """`R = max(w) - min(w)` over the weights that share a step, in the shape of `log_scale`.

    >>> float(weight_extent(ops.array([-1.0, 2.0]), ops.array(0.0)))
    3.0
    """
    axes = sharing_axes(weights, log_scale)
    extent = ops.max(weights, axis=axes) - ops.min(weights, axis=axes)
    return ops.reshape(extent, log_scale.shape)


def extent_bit_width(extent: Tensor, log_scale: Tensor) -> Tensor:
    """The real-valued width of weights in bits, `log2(R / s + 1)`, from their extent `R`.

    >>> float(extent_bit_width(ops.array(3.0), ops.array(0.0)))
    2.0
    """
    return _log_sum(extent, log_scale) - log_scale


def _log_sum(extent: Tensor, log_scale: Tensor) -> Tensor:
    return ops.log2(extent + power_of_two(log_scale))


def activation_bit_width(log_scale: Tensor, log_range: Tensor) -> Tensor:
    """The real-valued width of activations in bits, `log_range - log_scale`.

    >>> float(activation_bit_width(ops.array(-1.0), ops.array(2.0)))
    3.0
    """
    return log_range - log_scale


def true_bit_width(codes: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """The width that numbers the codes seen, `log2(max(q) - min(q) + 1)`, over those axes.

    >>> float(true_bit_width([3, 5, 6]))
    2.0
    """
    codes = ops.cast(codes, "float32")
    return ops.log2(ops.max(codes, axis=axis) - ops.min(codes, axis=axis) + 1.0)


def levels(range_over_scale: Tensor) -> Tensor:
    """The number of codes that a range of `R / s` steps holds: `round(R / s) + 1`, as floats.

    >>> [float(v) for v in levels([0.4, 1.6])]
    [1.0, 3.0]
    """
    return ops.round(range_over_scale) + 1.0


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
