"""`NoiseModel`: what the gradients of GDNSQ's grids make of the noise of rounding.

With the upstream gradient `g`, the position `v` on the grid in steps and the noise `e = q - v`, an
estimator (`keras_qat.estimators`) states what passes through rounding; all grids share

    passed = estimator(g, e)        lost = g - passed        slope = g * (e + s * rho) + lost * v

`slope` is `d loss / d s` at a fixed range. `rho` is random: `r / sqrt(3)` for signs `r` of +-1/2,
the variance of the noise without its value; with the mode "none", or without signs, it is its mean,
0. The estimator "lsq" is straight through with `rho = e`. The term of `rho` has an `s` too much, as
published. With a selection (`keras_qat.quantizers.replacement`), what it leaves out is not rounded:
`e = rho = 0` and `passed = g`.

Source: GDNSQ (arXiv 2508.14004), its published code.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras import ops

from keras_qat import estimators
from keras_qat.estimators import Estimator, GridStep
from keras_qat.quantizers.gdnsq.noise_signs import RankOneSigns, signed_sum
from keras_qat.quantizers.reductions import sharing_axes, sum_to_shape
from keras_qat.quantizers.replacement import passed_gradient

Tensor = Any

NOISE_GRADIENTS = ("head", "none")


@dataclasses.dataclass(frozen=True, eq=False)
class Residual:
    """What rounding left behind.

    Attributes:
        noise: from the position to the code; `noise / unit` is in steps, and 0 where nothing was
            rounded.
        position: on the grid, in steps counted from anywhere.
        unit: of the noise, in which a step is 1.
        origin: the position from which `slope` counts.
        selected: which elements were rounded; `None` for all.
    """

    noise: Tensor
    position: Tensor
    unit: Tensor = 1.0
    origin: Tensor = 0.0
    selected: Tensor | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseModel:
    """The backward pass that all grids share.

    Attributes:
        estimator: what passes through rounding.
        mode: what stands for `rho`: "head" for random signs, "lsq" for the noise itself, or "none".
        sign: +-1/2 for each element of `x`, or `RankOneSigns` if the step is a scalar; `None`
            leaves the random term out.
        mean_axes: where "aewgs" averages; by default the axes along which a step is shared.

    >>> NoiseModel.of("lsq").mode, NoiseModel.of("ewgs", "none").mode
    ('lsq', 'none')
    """

    estimator: Estimator = estimators.STE
    mode: str = "head"
    sign: Tensor | RankOneSigns | None = None
    mean_axes: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        estimator: Estimator | str | dict[str, Any] = "ste",
        noise_gradient: str = "head",
        sign: Tensor | RankOneSigns | None = None,
        mean_axes: tuple[int, ...] | None = None,
    ) -> NoiseModel:
        """The model by the options that users name.

        Args:
            estimator: an `Estimator` or its name, or "lsq".
            noise_gradient: "head" adds the term of `rho`, "none" leaves it out.
            sign, mean_axes: see `NoiseModel`.

        Raises:
            ValueError: no such estimator, or no such noise gradient.
        """
        if noise_gradient not in NOISE_GRADIENTS:
            raise ValueError(
                f"The noise_gradient must be one of {NOISE_GRADIENTS}. Received: {noise_gradient!r}"
            )
        if estimator == "lsq":
            mode = "lsq" if noise_gradient == "head" else "none"
            return cls(estimators.STE, mode, sign, mean_axes)
        return cls(estimators.get(estimator), noise_gradient, sign, mean_axes)

    @property
    def draws(self) -> bool:
        """Whether it needs signs."""
        return self.mode == "head"

    def step_of(self, size: Tensor, count: Tensor, x: Tensor, log_scale: Tensor) -> GridStep:
        """The grid as estimators see it: steps of that size, that many of them."""
        axes = sharing_axes(x, log_scale) if self.mean_axes is None else self.mean_axes
        return GridStep(size, count, axes)

    def backward(
        self,
        upstream: Tensor,
        residual: Residual,
        log_scale: Tensor,
        step: GridStep,
        noisy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """`(passed, lost, sum slope)`, see the module; `lost` is `None` where it is 0.

        Args:
            upstream: gradient of the output.
            residual: what rounding left.
            log_scale: the sum is one for each number of it.
            step: the grid (`step_of`).
            noisy: `upstream` with zeros where there is no noise: then the noise may be anything
                there.
        """
        noise, unit = residual.noise, residual.unit
        noisy = upstream if noisy is None else noisy
        slope = sum_to_shape(noisy * noise, log_scale) / unit
        if self.mode == "lsq":
            slope += step.size * slope
        elif self.mode == "head" and self.sign is not None:
            rounded = upstream
            if residual.selected is not None:
                rounded = upstream * ops.cast(residual.selected, upstream.dtype)
            signed = signed_sum(rounded, self.sign, log_scale)
            slope += step.size * (signed / math.sqrt(3.0))
        if self.estimator.passes_through:
            return upstream, None, slope
        passed = passed_gradient(self.estimator, upstream, noise / unit, step, residual.selected)
        lost = upstream - passed
        slope += sum_to_shape(lost * (residual.position - residual.origin), log_scale)
        return passed, lost, slope


STRAIGHT_THROUGH = NoiseModel()
"""No estimator but "ste", and no signs."""
