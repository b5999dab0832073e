"""The straight-through estimator."""

from __future__ import annotations

from keras_qat.estimators.estimator import GridStep, register_estimator
from keras_qat.tensors import Tensor


@register_estimator("ste", keeps_noiseless=True, elementwise=True)
def straight_through(upstream: Tensor, noise: Tensor, step: GridStep) -> Tensor:
    """`dv = g`: the gradient of no rounding.

    Source: Bengio et al. 2013 (arXiv 1308.3432).

    >>> straight_through(2.0, 0.25, None)
    2.0
    """
    return upstream
