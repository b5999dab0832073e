"""Fake-quantize functions on grids of fixed codes: they differ in their backward pass alone.

All share the forward pass `x_hat = scale * round(clip(x / scale, qmin, qmax))`, and write
`v = x / scale`, `c = clip(v, qmin, qmax)`, `q` for the code, `g` for the upstream gradient,
`inside = [qmin < v < qmax]`. `scale` is a scalar, or one number per channel of the last axis.

An estimator (`keras_qat.estimators`) makes of `g` and the noise `e = (q - v) / step` the gradient
`passed`; straight through it is `g`. With a selection (`keras_qat.quantizers.replacement`) only
the elements it takes are quantized: of the others the code is `c`, the noise 0, and `passed = g`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_qat.estimators import STE, Estimator, GridStep
from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.fake_quantize import Grid, round_to_codes
from keras_qat.quantizers.replacement import Selection
from keras_qat.quantizers.sharing import sharing_axes, sum_over_sharing

Tensor = Any
Rounding = Callable[[Tensor, Grid], Tensor]
ScaleGradient = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def fixed_step_size(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    rounding: Rounding = round_to_codes,
    estimator: Estimator = STE,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize whose scale gets no gradient.

    Forward: `x_hat = scale * q`. Backward: `dx = passed * inside`, `dscale = 0`.

    Source: Bengio et al. 2013 (arXiv 1308.3432) for the estimator that is the default, clipped at
    the ends of the grid.

    >>> [float(v) for v in fixed_step_size([0.2, 0.9, 5.0], 0.5, Grid(-2, 1))]
    [0.0, 0.5, 0.5]
    """
    return _fake_quantize(x, scale, grid, rounding, estimator, selection, None)


def learned_step_size(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    gradient_scale: float = 1.0,
    rounding: Rounding = round_to_codes,
    estimator: Estimator = STE,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize whose scale is learned (LSQ).

    Forward: `x_hat = scale * q`. Backward: `dx = passed * inside` and
    `dscale = gradient_scale * sum (g * (q - v * inside) + (g - passed) * v * inside)`, summed over
    all elements that share the scale; straight through, that is LSQ's. The paper's
    `gradient_scale` is `1 / sqrt(elements * qmax)`.

    Source: Esser et al. 2020 (arXiv 1902.08153), equations 1 to 3.

    >>> [float(v) for v in learned_step_size([0.2, 0.9, 5.0], 0.5, Grid(-2, 1))]
    [0.0, 0.5, 0.5]
    """

    def scale_gradient(upstream: Tensor, passed: Tensor, code: Tensor, inner: Tensor) -> Tensor:
        slope = upstream * (code - inner)
        if passed is not upstream:
            slope += (upstream - passed) * inner
        return slope

    return _fake_quantize(
        x, scale, grid, rounding, estimator, selection, scale_gradient, gradient_scale
    )


def learned_clipping(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    rounding: Rounding = round_to_codes,
    estimator: Estimator = STE,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize whose clipping level `scale * qmax` is learned (PACT).

    Forward: `x_hat = scale * q`. Backward: `dx = passed * inside` and
    `dscale = sum g * q * (1 - inside)`: what is clipped moves the end of the range, what is
    rounded does not.

    Source: Choi et al. 2018 (arXiv 1805.06085), equation 2.

    >>> [float(v) for v in learned_clipping([0.2, 0.9, 5.0], 0.5, Grid(0, 3))]
    [0.0, 1.0, 1.5]
    """

    def scale_gradient(upstream: Tensor, passed: Tensor, code: Tensor, inner: Tensor) -> Tensor:
        return upstream * code * ops.cast(inner == 0.0, code.dtype)

    return _fake_quantize(x, scale, grid, rounding, estimator, selection, scale_gradient)


def _fake_quantize(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    rounding: Rounding,
    estimator: Estimator,
    selection: Selection | None,
    scale_gradient: ScaleGradient | None,
    factor: float = 1.0,
) -> Tensor:
    """`scale_gradient(g, passed, q, v * inside)`, summed and times `factor`, is `dscale`."""

    @custom_gradient
    def fake_quantize(x: Tensor, scale: Tensor) -> Any:
        ratio = x / scale
        code = rounding(ratio, grid)
        selected = None
        if selection is not None:
            clipped = ops.clip(ratio, grid.qmin, grid.qmax)
            selected = selection((code - clipped) / grid.step)
            code = ops.where(selected, code, clipped)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            # Masks as factors: a choice by where() takes three times as long.
            inside = ops.logical_and(ratio > grid.qmin, ratio < grid.qmax)
            inside = ops.cast(inside, ratio.dtype)
            inner = inside * ops.clip(ratio, grid.qmin, grid.qmax)
            passed = _passed(estimator, upstream, inner, code, inside, selected, grid, scale)
            dx = passed * inside
            if scale_gradient is None:
                return dx, ops.zeros_like(scale)
            slope = scale_gradient(upstream, passed, code, inner)
            return dx, sum_over_sharing(slope, scale) * factor

        return code * scale, gradient

    return fake_quantize(x, scale)


def _passed(
    estimator: Estimator,
    upstream: Tensor,
    inner: Tensor,
    code: Tensor,
    inside: Tensor,
    selected: Tensor | None,
    grid: Grid,
    scale: Tensor,
) -> Tensor:
    """The estimator's gradient; clipped elements have no noise, unselected ones their own."""
    if estimator.passes_through:
        return upstream
    noise = (code * inside - inner) / grid.step
    count = (grid.qmax - grid.qmin) / grid.step
    step = GridStep(scale * grid.step, count, sharing_axes(inner, scale))
    passed = estimator(upstream, noise, step)
    return passed if selected is None else ops.where(selected, passed, upstream)
