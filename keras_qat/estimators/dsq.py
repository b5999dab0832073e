"""Differentiable soft quantization."""

from __future__ import annotations

import math
import numbers

from keras import ops

from keras_qat.estimators.estimator import GridStep, register_estimator
from keras_qat.tensors import Tensor


def soft_code(noise: Tensor, sharpness: Tensor) -> Tensor:
    """The distance of the staircase of hyperbolic tangents from the nearest code, in steps.

    With `k = sharpness`: `sign(-e) / 2 * (1 - tanh(k * (1/2 - |e|)) / tanh(k / 2))`. It is 0 on a
    code, and half a step at the tie between two codes. A learned sharpness trains by its derivative
    by `k`.

    >>> [round(float(v), 3) for v in soft_code(ops.array([0.0, 0.25, -0.5]), ops.array(2.2))]
    [0.0, -0.187, 0.5]
    """
    risen = ops.tanh(sharpness * (0.5 - ops.abs(noise))) / ops.tanh(0.5 * sharpness)
    return 0.5 * ops.sign(-noise) * (1.0 - risen)


@register_estimator("dsq", elementwise=True, trained={"sharpness": soft_code})
def soft_staircase(
    upstream: Tensor,
    noise: Tensor,
    step: GridStep | None = None,
    sharpness: float = 2.2,
    learned: bool = False,
) -> Tensor:
    """The slope of a staircase of hyperbolic tangents, which is steepest half way between codes.

    With `k = sharpness` and the distance `d = 1/2 - |e|` to the tie between two codes:
    `dv = g * k / 2 * (1 - tanh(k * d)**2) / tanh(k / 2)`. The mean of the factor over a step is 1,
    so evenly spread noise leaves the mean gradient as it is. `k -> 0` is straight through.

    The paper's `alpha` is `1 - tanh(k / 2)`, which is 0.2 with the default. With `learned`, every
    quantizer trains its own `k`, from `sharpness` on, by the derivative of the staircase:
    `dk = s * sum g * dphi/dk` (`soft_code`). The paper learns `alpha` so, together with the ends of
    the range. Here the quantizer decides about the ends of its range.

    Source: Gong et al. 2019 (arXiv 1908.05033).

    Raises:
        ValueError: the sharpness is not positive.

    >>> [round(float(v), 3) for v in soft_staircase([1.0, 1.0], [0.0, 0.5])]
    [0.494, 1.374]
    """
    if not isinstance(sharpness, numbers.Real):
        peak = 0.5 * sharpness / ops.tanh(0.5 * sharpness)
    elif not sharpness > 0:
        raise ValueError(f"The sharpness must be positive. Received: {sharpness!r}")
    else:
        peak = 0.5 * sharpness / math.tanh(0.5 * sharpness)
    tangent = ops.tanh(sharpness * (0.5 - ops.abs(noise)))
    return upstream * (peak * (1.0 - ops.square(tangent)))
