"""Starting parameters of GDNSQ's grids, from the range of the data.

Source: GDNSQ (arXiv 2508.14004), its published code, which starts at 10 bits.
"""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from keras_qat.quantizers.reductions import sharing_axes
from keras_qat.tensors import Tensor

SMALLEST_LOG_SCALE = -12.0
"""Steps of weights start at `2**-12` or more, also where a channel is constant."""


class ActivationParameters(NamedTuple):
    """The start of an activation grid; `varies` is False if there is nothing to train."""

    offset: Tensor
    log_scale: Tensor
    log_range: Tensor
    varies: Tensor


def calibrated_weight_log_scale(weights: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """`max(-12, log2((max(w) - min(w)) / (2**bits - 1)))`, in the shape of the parameter.

    Args:
        weights: float tensor.
        bits: the width at the start, exact for steps above the floor of `2**-12`.
        shape: `(channels,)` for a step per channel of the last axis, `()` for one step.

    >>> float(calibrated_weight_log_scale([-1.0, 2.0], bits=2, shape=()))
    0.0
    """
    steps = _steps(bits)
    weights = ops.convert_to_tensor(weights)
    axes = sharing_axes(weights, ops.zeros(shape))
    extent = ops.reshape(ops.max(weights, axis=axes) - ops.min(weights, axis=axes), shape)
    return ops.log2(ops.maximum(extent / steps, 2.0**SMALLEST_LOG_SCALE))


def calibrated_activation_parameters(
    minimum: Tensor, maximum: Tensor, bits: int
) -> ActivationParameters:
    """`offset = minimum`, `log_scale = log2((maximum - minimum) / (2**bits - 1))`.

    `log_range = log_scale + bits`, so that the grid ends at the maximum. A constant tensor,
    `maximum == minimum`, gets 0 for both logarithms and `varies = False`.

    Args:
        minimum, maximum: the range of all activations seen.
        bits: the width at the start.

    >>> start = calibrated_activation_parameters(-1.0, 6.0, bits=3)
    >>> float(start.offset), float(start.log_scale), float(start.log_range)
    (-1.0, 0.0, 3.0)
    """
    steps = _steps(bits)
    minimum, maximum = ops.convert_to_tensor(minimum), ops.convert_to_tensor(maximum)
    varies = maximum > minimum
    log_scale = ops.log2(ops.where(varies, maximum - minimum, float(steps)) / steps)
    log_range = ops.where(varies, log_scale + bits, 0.0)
    return ActivationParameters(minimum, log_scale, log_range, varies)


def _steps(bits: int) -> int:
    if isinstance(bits, bool) or not isinstance(bits, int) or bits < 1:
        raise ValueError(f"The bits must be a whole number of at least 1. Received: {bits!r}")
    steps: int = 2**bits - 1
    return steps
