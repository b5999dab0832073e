"""`NoiseModel`: the gradients of GDNSQ's grids as functions of the rounding noise.

With the upstream gradient `g`, the position `v` on the grid in steps, the noise `e = q - v` and an
estimator (`keras_qat.estimators`), all grids share

    passed = estimator(g, e)        lost = g - passed        slope = g * (e + s * rho) + lost * v

`slope` is `d loss / d s` at a fixed range. `rho` is random: `r / sqrt(3)` for signs `r` of +-1/2,
which has the variance of the noise but not its value. With the mode "none", or without signs, `rho`
is its mean, 0. The estimator "lsq" is straight through with `rho = e`. The factor `s` of `rho` is
as published, although one factor `s` too many. Elements that a selection
(`keras_qat.quantizers.replacement`) leaves out are not rounded: `e = rho = 0` and `passed = g`.

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
from keras_qat.tensors import Tensor

NOISE_GRADIENTS = ("head", "none")


@dataclasses.dataclass(frozen=True, eq=False)
class Residual:
    """The rounding noise of a tensor, and where it arose.

    Attributes:
        noise: the difference from the position to the code. `noise / unit` is in steps, and 0
            for elements that were not rounded.
        position: the positions on the grid, in steps from any origin.
        unit: the size of a step in the units of `noise`.
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
        estimator: the rule for the gradient through rounding.
        mode: the source of `rho`: "head" for random signs, "lsq" for the noise itself, or "none".
        sign: +-1/2 for each element of `x`, or `RankOneSigns` if the step is a scalar. `None`
            leaves the random term out.
        mean_axes: the axes over which "aewgs" averages; by default the axes that share a step.

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
        """The model from the options of a quantizer.

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
        """Whether the model needs random signs."""
        return self.mode == "head"

    def step_of(self, size: Tensor, count: Tensor, x: Tensor, log_scale: Tensor) -> GridStep:
        """The `GridStep` for the estimator: `count` steps of the given `size`."""
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
        """`(passed, lost, sum slope)`, as the module states; `lost` is `None` if it is 0.

        Args:
            upstream: the gradient of the output.
            residual: the rounding noise.
            log_scale: the parameter whose shape the sum has.
            step: the grid (`step_of`).
            noisy: `upstream` with zeros for elements that count as free of noise; their `noise`
                may have any value.
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
"""The model with the estimator "ste" and without signs."""
