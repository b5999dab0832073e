"""Fake-quantize functions on grids of fixed codes: they differ only in their backward pass.

All share the forward pass `x_hat = scale * round(clip(x / scale, qmin, qmax))`. Their docstrings
write `v = x / scale`, `c = clip(v, qmin, qmax)`, `q` for the code, `g` for the upstream gradient,
`inside = [qmin * scale < x < qmax * scale]`. `scale` is a scalar, or one number per channel of the
last axis.

An estimator (`keras_qat.estimators`) computes the gradient `passed` from `g` and the noise
`e = (q - v) / step`. For the straight-through estimator, `passed = g`. With a selection
(`keras_qat.quantizers.replacement`) only the selected elements are quantized. Each other element
has the code `c`, no noise, and `passed = g`.

The backward pass starts from `x` and `x_hat`, which the neighbouring layers keep anyway. Nothing
else is kept between the two passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_qat.estimators import STE, Estimator, GridStep
from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.grid import (
    Grid,
    clipped_to_grid,
    nearest_codes,
    round_nonnegative_to_codes,
    round_to_codes,
)
from keras_qat.quantizers.reductions import sharing_axes, sum_of_products
from keras_qat.quantizers.replacement import Selection, passed_gradient, select
from keras_qat.tensors import Tensor

Rounding = Callable[[Tensor, Grid], Tensor]
Total = Callable[[Tensor, Tensor], Tensor]
ScaleGradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Total], Tensor]


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

    Source: Bengio et al. 2013 (arXiv 1308.3432) for the default estimator, clipped at the ends of
    the grid.

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
    `dscale = gradient_scale * sum (g * x_hat - dx * x) / scale`, summed over all elements that
    share the scale. Straight through, the sum is LSQ's `sum g * (q - v * inside)`. Another
    estimator adds `sum (g - passed) * v * inside`. The paper's `gradient_scale` is
    `1 / sqrt(elements * qmax)`.

    Source: Esser et al. 2020 (arXiv 1902.08153), equations 1 to 3.

    >>> [float(v) for v in learned_step_size([0.2, 0.9, 5.0], 0.5, Grid(-2, 1))]
    [0.0, 0.5, 0.5]
    """

    def scale_gradient(
        x: Tensor, x_hat: Tensor, g: Tensor, dx: Tensor, inside: Tensor, total: Total
    ) -> Tensor:
        return total(g, x_hat) - total(dx, x)

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
    `dscale = sum g * q * (1 - inside)`: only clipped elements move the end of the range.

    Source: Choi et al. 2018 (arXiv 1805.06085), equation 2.

    >>> [float(v) for v in learned_clipping([0.2, 0.9, 5.0], 0.5, Grid(0, 3))]
    [0.0, 1.0, 1.5]
    """

    def scale_gradient(
        x: Tensor, x_hat: Tensor, g: Tensor, dx: Tensor, inside: Tensor, total: Total
    ) -> Tensor:
        return total(g * (1.0 - inside), x_hat)

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
    """Fake-quantize whose `dscale` is `scale_gradient` times `factor / scale`.

    `scale_gradient` gets `(x, x_hat, g, dx, inside, total)`. `total` sums products of two tensors
    over the elements that share a scale.
    """

    @custom_gradient
    def fake_quantize(x: Tensor, scale: Tensor) -> Any:
        ratio = x / scale
        code, selected = mixed_codes(ratio, grid, rounding, selection)
        x_hat = code * scale

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            # The masks are factors, because where() takes three times as long.
            inside = x < grid.qmax * scale
            if rounding is not round_nonnegative_to_codes:
                inside = ops.logical_and(inside, x > grid.qmin * scale)
            inside = ops.cast(inside, x.dtype)
            passed = upstream
            if not estimator.passes_through:
                size = scale * grid.step
                step = GridStep(size, (grid.qmax - grid.qmin) / grid.step, sharing_axes(x, scale))
                # Clipped elements get no gradient. Their noise matters only where the gradients of
                # other elements depend on it.
                alone = estimator.elementwise
                nearest = x if alone else clipped_to_grid(x, grid, scale, rounding)
                noise = (x_hat - nearest) / size
                passed = passed_gradient(estimator, upstream, noise, step, selected)
            dx = passed * inside
            if scale_gradient is None:
                return dx, ops.zeros_like(scale)
            slope = scale_gradient(
                x, x_hat, upstream, dx, inside, lambda a, b: sum_of_products(a, b, scale)
            )
            return dx, slope * (factor / scale)

        return x_hat, gradient

    return fake_quantize(x, scale)


def mixed_codes(
    ratio: Tensor, grid: Grid, rounding: Rounding, selection: Selection | None
) -> tuple[Tensor, Tensor | None]:
    """Codes of the selected elements, clipped ratios of the others, and which are selected.

    >>> codes, _ = mixed_codes(ops.array([0.4, 1.7, 9.0]), Grid(0, 3), round_to_codes, None)
    >>> [float(v) for v in codes]
    [0.0, 2.0, 3.0]
    """
    if selection is None:
        return rounding(ratio, grid), None
    clipped = clipped_to_grid(ratio, grid, None, rounding)
    plain = rounding in (round_to_codes, round_nonnegative_to_codes)
    code = nearest_codes(clipped, grid) if plain else rounding(ratio, grid)
    return select(selection, clipped, code, grid.step)
