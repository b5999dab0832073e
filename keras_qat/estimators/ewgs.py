"""Element-wise gradient scaling."""

from __future__ import annotations

from keras import ops

from keras_qat.estimators.estimator import GridStep, register_estimator
from keras_qat.tensors import Tensor


@register_estimator("ewgs", variables=("delta",), keeps_noiseless=True, elementwise=True)
def element_wise_scaling(
    upstream: Tensor, noise: Tensor, step: GridStep | None = None, delta: Tensor = 0.01
) -> Tensor:
    """`dv = g * (1 - delta * sign(g) * e)`: larger where descent moves away from the code.

    Args:
        delta: the change of the factor per step of noise. The paper counts noise in ranges, so its
            delta is this one times the number of steps. `keras_qat.callbacks.EWGSSchedule` sets
            delta from the curvature.

    Source: Lee et al. 2021 (arXiv 2104.00903).

    >>> [round(float(v), 3) for v in element_wise_scaling([2.0, -2.0], [0.5, 0.5])]
    [1.99, -2.01]
    """
    return upstream - delta * ops.abs(upstream) * noise
