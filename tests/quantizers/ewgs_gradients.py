"""The quantizers of EWGS: a learned interval, normalised to [0, 1], in equal levels.

Source: Lee et al. 2021 (arXiv 2104.00903); the starting values are those of its published code.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_qat.estimators import element_wise_scaling
from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.reductions import sum_to_shape

Tensor = Any

_HALF_NORMAL_DEVIATION = math.sqrt(1.0 - 2.0 / math.pi)


def interval_levels(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    level_count: int,
    delta: Tensor = 0.0,
    centred: bool = False,
) -> Tensor:
    """Rounds the position of `x` in `[lower, upper]` to one of equally spaced levels.

    Forward: `t = (x - lower) / (upper - lower)`, `n = level_count - 1`,
    `t_q = round(n * clip(t, 0, 1)) / n`; gives `t_q`, or `2 * t_q - 1` when centred.
    Backward, with `inside = [0 <= t <= 1]` and twice the upstream gradient `g` when centred:
    `h = g * (1 + delta * sign(g) * (clip(t, 0, 1) - t_q)) * inside / (upper - lower)`,
    `dx = h`, `dlower = sum h * (t - 1)`, `dupper = -sum h * t`. `delta = 0` is straight-through.

    Args:
        x: float tensor of any shape.
        lower, upper: the interval, in the units of `x`; a scalar, or per channel of the last axis.
        level_count: how many levels, 2 or more: `2**bits`.
        delta: how much stronger the gradient is that leads away from a level.
        centred: levels in [-1, 1], as for weights, instead of [0, 1].

    >>> [float(v) for v in interval_levels([-9.0, 0.4, 9.0], -1.0, 1.0, 2, centred=True)]
    [-1.0, 1.0, 1.0]
    """
    if isinstance(level_count, bool) or not isinstance(level_count, int) or level_count < 2:
        raise ValueError(
            f"The level_count must be a whole number of at least 2. Received: {level_count!r}"
        )
    steps = level_count - 1

    @custom_gradient
    def levels(x: Tensor, lower: Tensor, upper: Tensor, delta: Tensor) -> Any:
        width = upper - lower
        position = (x - lower) / width
        clipped = ops.clip(position, 0.0, 1.0)
        level = ops.round(steps * clipped) / steps

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            upstream = upstream * 2.0 if centred else upstream
            passed = element_wise_scaling(upstream, level - clipped, delta=delta)
            inside = ops.logical_and(position >= 0.0, position <= 1.0)
            dx = ops.where(inside, passed, 0.0) / width
            return (
                dx,
                sum_to_shape(dx * (position - 1.0), lower),
                -sum_to_shape(dx * position, upper),
                ops.zeros_like(delta),
            )

        return level * 2.0 - 1.0 if centred else level, gradient

    return levels(x, lower, upper, delta)


def initial_weight_interval(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Three standard deviations either way: `upper = -lower = 3 * std(w)`, unbiased.

    >>> [round(float(v), 3) for v in initial_weight_interval([-1.0, 0.0, 1.0])]
    [-3.0, 3.0]
    """
    upper = 3.0 * _unbiased_deviation(weights)
    return -upper, upper


def initial_activation_interval(x: Tensor) -> tuple[Tensor, Tensor]:
    """`lower = min(x)` and `upper = 3 * std(x) / sqrt(1 - 2 / pi)`, unbiased.

    For activations after a ReLU: the divisor makes the deviation that of the whole normal law.

    >>> [round(float(v), 3) for v in initial_activation_interval([0.0, 1.0, 2.0])]
    [0.0, 4.977]
    """
    return ops.min(x), _unbiased_deviation(x) * (3.0 / _HALF_NORMAL_DEVIATION)


def initial_output_scale(output: Tensor, quantized_output: Tensor) -> Tensor:
    """`mean|y| / mean|y_q|`: what the quantized layer's output is multiplied by.

    >>> float(initial_output_scale([1.0, -3.0], [2.0, 2.0]))
    1.0
    """
    return ops.mean(ops.abs(output)) / ops.mean(ops.abs(quantized_output))


def _unbiased_deviation(x: Tensor) -> Tensor:
    x = ops.convert_to_tensor(x)
    count = math.prod(x.shape)
    if count < 2:
        raise ValueError(f"A standard deviation needs two values or more. Received: {count}")
    return ops.std(x) * math.sqrt(count / (count - 1))
