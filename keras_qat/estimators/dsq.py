"""Differentiable soft quantization."""

from __future__ import annotations

import math

from keras import ops

from keras_qat.estimators.estimator import GridStep, register_estimator
from keras_qat.tensors import Tensor


@register_estimator("dsq", elementwise=True)
def soft_staircase(
    upstream: Tensor, noise: Tensor, step: GridStep | None = None, sharpness: float = 2.2
) -> Tensor:
    """The slope of a staircase of hyperbolic tangents, which is steepest half way between codes.

    With `k = sharpness` and the distance `d = 1/2 - |e|` to the tie between two codes:
    `dv = g * k / 2 * (1 - tanh(k * d)**2) / tanh(k / 2)`. The mean of the factor over a step is 1,
    so evenly spread noise leaves the mean gradient as it is. `k -> 0` is straight through.

    The paper's `alpha` is `1 - tanh(k / 2)`, which is 0.2 with the default. The paper learns alpha
    for each layer, together with the ends of the range. Here `k` is a constant, and the quantizer
    decides about the ends of its range.

    Source: Gong et al. 2019 (arXiv 1908.05033).

    Raises:
        ValueError: the sharpness is not positive.

    >>> [round(float(v), 3) for v in soft_staircase([1.0, 1.0], [0.0, 0.5])]
    [0.494, 1.374]
    """
    if not sharpness > 0:
        raise ValueError(f"The sharpness must be positive. Received: {sharpness!r}")
    tangent = ops.tanh(sharpness * (0.5 - ops.abs(noise)))
    peak = 0.5 * sharpness / math.tanh(0.5 * sharpness)
    return upstream * (peak * (1.0 - ops.square(tangent)))
