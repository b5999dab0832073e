"""Estimators of the gradient through rounding. Each is one pure function in one file."""

from keras_qat.estimators.aewgs import adaptive_element_wise_scaling
from keras_qat.estimators.dsq import soft_code, soft_staircase
from keras_qat.estimators.estimator import (
    Estimator,
    GridStep,
    get,
    names,
    register_estimator,
)
from keras_qat.estimators.ewgs import element_wise_scaling
from keras_qat.estimators.pege import pull_to_code
from keras_qat.estimators.straight_through import straight_through

STE = Estimator("ste")
"""The estimator that passes gradients straight through, the default of most configs."""

__all__ = [
    "STE",
    "Estimator",
    "GridStep",
    "adaptive_element_wise_scaling",
    "element_wise_scaling",
    "get",
    "names",
    "pull_to_code",
    "register_estimator",
    "soft_code",
    "soft_staircase",
    "straight_through",
]
