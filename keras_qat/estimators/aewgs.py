"""Adaptive element-wise gradient scaling."""

from __future__ import annotations

from keras import ops

from keras_qat.estimators.estimator import GridStep, register_estimator
from keras_qat.tensors import Tensor

_SMALLEST_VARIANCE = 1e-3
_LARGEST_REDUCTION = 0.99


@register_estimator("aewgs", keeps_noiseless=True)
def adaptive_element_wise_scaling(upstream: Tensor, noise: Tensor, step: GridStep) -> Tensor:
    """EWGS whose `delta` is the least-squares slope of `sign(g)` on `e`.

    `dv = g * (1 - min(d * sign(g) * e, 0.99))` and `d = mean(sign(g) * e) / max(var(e), 1e-3)`.
    The means run over the elements that share a step.

    Source: GDNSQ (arXiv 2508.14004), its published code.

    >>> step = GridStep(size=1.0, count=3, axes=(0,))
    >>> dv = adaptive_element_wise_scaling([1.0, -1.0], [0.25, -0.25], step)
    >>> [round(float(v), 3) for v in dv]
    [0.01, -0.01]
    """
    signed_noise = ops.sign(upstream) * noise
    mean = ops.mean(noise, axis=step.axes, keepdims=True)
    mean_square = ops.mean(ops.square(noise), axis=step.axes, keepdims=True)
    variance = ops.maximum(mean_square - ops.square(mean), _SMALLEST_VARIANCE)
    slope = ops.mean(signed_noise, axis=step.axes, keepdims=True) / variance
    return upstream * (1.0 - ops.minimum(slope * signed_noise, _LARGEST_REDUCTION))
