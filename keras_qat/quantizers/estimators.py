"""Gradient estimators: fake-quantize functions that differ in their backward pass alone.

All share the forward pass `x_hat = scale * round(clip(x / scale, qmin, qmax))`, and write
`v = x / scale`, `q` for the code, `g` for the upstream gradient, `inside = [qmin < v < qmax]`.
`scale` is a scalar, or one number per channel of the last axis of `x`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.fake_quantize import Grid, round_to_codes

Tensor = Any
Rounding = Callable[[Tensor, Grid], Tensor]


def straight_through(
    x: Tensor, scale: Tensor, grid: Grid, rounding: Rounding = round_to_codes
) -> Tensor:
    """Fake-quantize with the straight-through estimator; the scale gets no gradient.

    Forward: `x_hat = scale * q`. Backward: `dx = g * inside`, `dscale = 0`.

    Source: Bengio et al. 2013 (arXiv 1308.3432), clipped at the ends of the grid.

    >>> [float(v) for v in straight_through([0.2, 0.9, 5.0], 0.5, Grid(-2, 1))]
    [0.0, 0.5, 0.5]
    """

    @custom_gradient
    def fake_quantize(x: Tensor, scale: Tensor) -> Any:
        ratio = x / scale

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            return ops.where(_inside(ratio, grid), upstream, 0.0), ops.zeros_like(scale)

        return rounding(ratio, grid) * scale, gradient

    return fake_quantize(x, scale)


def learned_step_size(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    gradient_scale: float = 1.0,
    rounding: Rounding = round_to_codes,
) -> Tensor:
    """Fake-quantize whose scale is learned (LSQ).

    Forward: `x_hat = scale * q`. Backward: `dx = g * inside` and
    `dscale = gradient_scale * sum g * (q - v * inside)`, summed over all elements that share the
    scale. The paper's `gradient_scale` is `1 / sqrt(elements * qmax)`.

    Source: Esser et al. 2020 (arXiv 1902.08153), equations 1 to 3.

    >>> [float(v) for v in learned_step_size([0.2, 0.9, 5.0], 0.5, Grid(-2, 1))]
    [0.0, 0.5, 0.5]
    """

    @custom_gradient
    def fake_quantize(x: Tensor, scale: Tensor) -> Any:
        ratio = x / scale
        code = rounding(ratio, grid)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            inside = _inside(ratio, grid)
            slope = upstream * (code - ops.where(inside, ratio, 0.0))
            shared = tuple(range(len(x.shape) - len(scale.shape)))
            return (
                ops.where(inside, upstream, 0.0),
                ops.sum(slope, axis=shared) * gradient_scale,
            )

        return code * scale, gradient

    return fake_quantize(x, scale)


def _inside(ratio: Tensor, grid: Grid) -> Tensor:
    return ops.logical_and(ratio > grid.qmin, ratio < grid.qmax)
