"""Bit widths: real numbers for training, whole numbers of levels for targets.

A range `R` with the step `s` holds `round(R / s) + 1` levels. A gradient can move the real-valued
width `log2(R / s + 1)`. The true width is `log2(levels)`.
Source: GDNSQ (arXiv 2508.14004), its published code.
"""

from __future__ import annotations

from keras import ops

from keras_qat.quantizers.power_of_two import power_of_two
from keras_qat.quantizers.reductions import sharing_axes
from keras_qat.tensors import Tensor


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
    return ops.log2(extent + power_of_two(log_scale)) - log_scale


def activation_bit_width(log_scale: Tensor, log_range: Tensor) -> Tensor:
    """The real-valued width of activations in bits, `log_range - log_scale`.

    >>> float(activation_bit_width(ops.array(-1.0), ops.array(2.0)))
    3.0
    """
    return log_range - log_scale


def levels(range_over_scale: Tensor) -> Tensor:
    """The number of levels in a range of `R / s` steps: `round(R / s) + 1`, as floats.

    >>> [float(v) for v in levels([0.4, 1.6])]
    [1.0, 3.0]
    """
    return ops.round(range_over_scale) + 1.0
