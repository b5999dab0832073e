"""GDNSQ's fake-quantize functions: affine grids whose every parameter has a gradient.

The grid has the step `s = 2**log_scale` and starts at the zero point `z`, a real number:
`v = (clip(x, lower, upper) - z) / s`, `q = round(v)` (ties to even), `x_hat = s * q + z`.
Each function states its whole gradient in closed form. With the upstream gradient `g` and the noise
`e = q - v`, an estimator (`keras_qat.estimators`) states what passes through rounding; all share

    passed = estimator(g, e)        lost = g - passed        slope = g * (e + s * rho) + lost * v

`slope` is `d loss / d s` at a fixed range. `rho` is random: `r / sqrt(3)` for signs `r` of +-1/2,
the variance of the noise without its value; with `noise_gradient="none"`, or without signs, it is
its mean, 0. The estimator "lsq" is straight through with `rho = e`. The term of `rho` has an `s`
too much, as published. With a selection (`keras_qat.quantizers.replacement`), what it leaves out is
not rounded: `e = rho = 0` and `passed = g`.
Parameters broadcast against `x` from the last axis on: a shape `()` or `(1,)` is one number for
the tensor, `(channels,)` one per channel of the last axis. Sums run over what shares one.

These grids are the published ones, to train and compare with. Their zero point is no whole number
of steps, and compilers may fuse `s * q + z`, which moves the last bit: nothing here is exact in
integers.

Source: GDNSQ (arXiv 2508.14004), its published code.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_qat import estimators
from keras_qat.estimators import Estimator, GridStep
from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.quantizers.gdnsq.noise_signs import RankOneSigns, signed_sum
from keras_qat.quantizers.power_of_two import power_of_two
from keras_qat.quantizers.reductions import sharing_axes, sum_to_shape
from keras_qat.quantizers.replacement import Selection, passed_gradient, select

Tensor = Any
Axes = tuple[int, ...]

NOISE_GRADIENTS = ("head", "none")
_LN2 = math.log(2.0)


def fake_quantize_affine(
    x: Tensor,
    log_scale: Tensor,
    zero_point: Tensor,
    lower: Tensor,
    upper: Tensor,
    estimator: str | Estimator = "ste",
    noise_sign: Tensor | RankOneSigns | None = None,
    noise_gradient: str = "head",
    mean_axes: Axes | None = None,
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
        estimator: an `Estimator` or its name, or "lsq".
        noise_sign: +-1/2 for each element of `x`, or a `RankOneSigns` if the step is a scalar; None
            leaves the random term out.
        noise_gradient: "head" adds the term of `rho`, "none" leaves it out.
        mean_axes: where "aewgs" averages; by default the axes along which `log_scale` is shared.
        selection: `noise -> which elements are quantized`; `None` for all.

    >>> x_hat = fake_quantize_affine([-1.0, 0.7, 9.0], -1.0, 0.0, 0.0, 1.5)
    >>> [float(v) for v in x_hat]
    [0.0, 0.5, 1.5]
    """
    backward = NoiseBackward(estimator, noise_sign, noise_gradient)

    @custom_gradient
    def fake_quantize(
        x: Tensor, log_scale: Tensor, zero_point: Tensor, lower: Tensor, upper: Tensor
    ) -> Any:
        scale = power_of_two(log_scale)
        position = (_clip(x, lower, upper) - zero_point) / scale
        code, selected = select(selection, position, ops.round(position))

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            axes = sharing_axes(x, log_scale) if mean_axes is None else mean_axes
            step = GridStep(scale, (upper - lower) / scale, axes)
            passed, lost, slope = backward(
                upstream, code - position, position, log_scale, step, selected
            )
            below, above = x < lower, x > upper
            return (
                ops.where(ops.logical_or(below, above), 0.0, passed),
                _LN2 * scale * slope,
                ops.zeros_like(zero_point) if lost is None else sum_to_shape(lost, zero_point),
                sum_to_shape(ops.where(below, passed, 0.0), lower),
                sum_to_shape(ops.where(above, passed, 0.0), upper),
            )

        return code * scale + zero_point, gradient

    return fake_quantize(x, log_scale, zero_point, lower, upper)


def fake_quantize_weights(
    weights: Tensor,
    log_scale: Tensor,
    estimator: str | Estimator = "ste",
    noise_sign: Tensor | RankOneSigns | None = None,
    noise_gradient: str = "head",
    mean_axes: Axes | None = None,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize on a grid that starts at the smallest weight; nothing is clipped.

    Forward: `z = min(w)` over the weights that share a step, `w_hat = s * round((w - z) / s) + z`.
    Backward: `dlog_scale = ln(2) * s * sum slope` and
    `dw = passed + [w == z] / ties * sum lost`; the `ties` weights at the minimum share equally.

    Args as in `fake_quantize_affine`; `log_scale` of shape `(channels,)` is per output channel
    of a Keras kernel, `()` per tensor.

    >>> [float(v) for v in fake_quantize_weights([-0.5, -0.1, 0.6], 0.0)]
    [-0.5, -0.5, 0.5]
    """
    backward = NoiseBackward(estimator, noise_sign, noise_gradient)

    @custom_gradient
    def fake_quantize(weights: Tensor, log_scale: Tensor) -> Any:
        scale = power_of_two(log_scale)
        sharing = sharing_axes(weights, log_scale)
        smallest = ops.min(weights, axis=sharing, keepdims=True)
        position = (weights - smallest) / scale
        code, selected = select(selection, position, ops.round(position))

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            axes = sharing if mean_axes is None else mean_axes
            count = ops.maximum(ops.max(ops.round(position), axis=sharing, keepdims=True), 1.0)
            step = GridStep(scale, count, axes)
            passed, lost, slope = backward(
                upstream, code - position, position, log_scale, step, selected
            )
            if lost is not None:
                at_minimum = ops.cast(weights == smallest, weights.dtype)
                ties = ops.sum(at_minimum, axis=sharing, keepdims=True)
                passed += at_minimum * (ops.sum(lost, axis=sharing, keepdims=True) / ties)
            return passed, _LN2 * scale * slope

        return code * scale + smallest, gradient

    return fake_quantize(weights, log_scale)


def fake_quantize_activations(
    x: Tensor,
    offset: Tensor,
    log_scale: Tensor,
    log_range: Tensor,
    signed: bool = True,
    estimator: str | Estimator = "ste",
    noise_sign: Tensor | RankOneSigns | None = None,
    noise_gradient: str = "head",
    mean_axes: Axes | None = None,
    selection: Selection | None = None,
) -> Tensor:
    """Fake-quantize on a grid from `offset` to `offset + range - s`, with both ends learned.

    Forward: `b = offset`, `Q = 2**log_range`, `upper = b + Q - s`,
    `x_hat = s * round((clip(x, b, upper) - b) / s) + b`.
    Backward, with `above = [x > upper]` and `inside = [b <= x <= upper]`:
    `dx = passed * inside`, `doffset = sum(g - dx)`, `dlog_range = ln(2) * Q * sum passed * above`,
    `dlog_scale = ln(2) * s * (sum slope - sum passed * above)`.

    Args:
        x: float tensor of any shape.
        offset: the smallest value of the grid, in the units of `x`.
        log_scale, log_range: base-2 logarithms; their difference is the bit width.
        signed: False keeps the offset where it is: it gets no gradient.
        estimator, noise_sign, noise_gradient, mean_axes, selection: as in `fake_quantize_affine`.

    >>> [float(v) for v in fake_quantize_activations([-9.0, 0.6, 9.0], 0.0, 0.0, 2.0)]
    [0.0, 1.0, 3.0]
    """
    backward = NoiseBackward(estimator, noise_sign, noise_gradient)

    @custom_gradient
    def fake_quantize(x: Tensor, offset: Tensor, log_scale: Tensor, log_range: Tensor) -> Any:
        scale, width = power_of_two(log_scale), power_of_two(log_range)
        upper = offset + width - scale
        position = (_clip(x, offset, upper) - offset) / scale
        code, selected = select(selection, position, ops.round(position))

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            axes = sharing_axes(x, log_scale) if mean_axes is None else mean_axes
            step = GridStep(scale, width / scale - 1.0, axes)
            passed, _, slope = backward(
                upstream, code - position, position, log_scale, step, selected
            )
            # Masks as factors: a choice by where() takes three times as long.
            dx = passed * ops.cast(x <= upper, x.dtype)
            above = passed - dx
            dx = dx * ops.cast(x >= offset, x.dtype)
            return (
                dx,
                sum_to_shape(upstream - dx, offset) if signed else ops.zeros_like(offset),
                _LN2 * scale * (slope - sum_to_shape(above, log_scale)),
                _LN2 * width * sum_to_shape(above, log_range),
            )

        return code * scale + offset, gradient

    return fake_quantize(x, offset, log_scale, log_range)


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


def _clip(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return ops.minimum(ops.maximum(x, lower), upper)


def split_estimator(
    estimator: Estimator | str | dict[str, Any], noise_gradient: str
) -> tuple[Estimator, str]:
    """The estimator of the input, and the name of `rho`: "head", "none" or "lsq".

    Raises:
        ValueError: no such estimator, or no such noise gradient.

    >>> split_estimator("lsq", "head")[1], split_estimator("ewgs", "none")[1]
    ('lsq', 'none')
    """
    if noise_gradient not in NOISE_GRADIENTS:
        raise ValueError(
            f"The noise_gradient must be one of {NOISE_GRADIENTS}. Received: {noise_gradient!r}"
        )
    if estimator == "lsq":
        return estimators.STE, "lsq" if noise_gradient == "head" else "none"
    return estimators.get(estimator), noise_gradient


class NoiseBackward:
    """The backward pass that all grids share, for one estimator."""

    def __init__(
        self,
        estimator: str | Estimator,
        noise_sign: Tensor | RankOneSigns | None,
        noise_gradient: str,
    ):
        self.estimator, self._scale_term = split_estimator(estimator, noise_gradient)
        self._noise_sign = noise_sign

    def __call__(
        self,
        upstream: Tensor,
        noise: Tensor,
        position: Tensor,
        log_scale: Tensor,
        step: GridStep,
        selected: Tensor | None = None,
        origin: Tensor = 0.0,
        noise_unit: Tensor = 1.0,
        noisy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """`(passed, lost, sum slope)`, see the module; `lost` is None where it is 0.

        Positions may be counted from anywhere: `v - origin` is what `slope` has. The sum is one
        for each step. `noise / noise_unit` is in steps, and 0 where `selected` is False. `noisy` is
        `upstream` with zeros where there is no noise: then `noise` may be anything there.
        """
        noisy = upstream if noisy is None else noisy
        slope = sum_to_shape(noisy * noise, log_scale) / noise_unit
        if self._scale_term == "lsq":
            slope += step.size * slope
        elif self._scale_term == "head" and self._noise_sign is not None:
            rounded = upstream
            if selected is not None:
                rounded = upstream * ops.cast(selected, upstream.dtype)
            signed = signed_sum(rounded, self._noise_sign, log_scale)
            slope += step.size * (signed / math.sqrt(3.0))
        if self.estimator.passes_through:
            return upstream, None, slope
        passed = passed_gradient(self.estimator, upstream, noise / noise_unit, step, selected)
        lost = upstream - passed
        slope += sum_to_shape(lost * (position - origin), log_scale)
        return passed, lost, slope
