"""PEGE's gradient: of the task loss and the discretization error together."""

from __future__ import annotations

import keras
from keras import ops

from keras_qat.estimators.estimator import GridStep, register_estimator
from keras_qat.tensors import Tensor

WEIGHTINGS = ("rms", "raw", "ewgs")


@register_estimator("pege", variables=("strength",), keeps_noiseless=True, elementwise=True)
def pull_to_code(
    upstream: Tensor,
    noise: Tensor,
    step: GridStep,
    strength: Tensor = 0.02,
    weighting: str = "rms",
) -> Tensor:
    """`dv = g - u * e / n`: the gradient of the task and of the discretization error together.

    `n` is the number of steps in the range, and `e / n` the discretization error in ranges. Descent
    moves a value to its nearest code. With `lambda = strength`:

    * `"rms"`: `u = lambda * sqrt(mean(g**2))` over the tensor, for losses of any scale.
    * `"raw"`: `u = lambda / range`, the gradient of the loss `lambda / 2 * sum (e / n)**2`.
    * `"ewgs"`: `u = lambda * |g|`, which is EWGS.

    Source: the abstract of PEGE (arXiv 2509.00097) says that task loss and discretization error are
    optimized together, by an element-wise gradient. The formula is our own reading.

    Raises:
        ValueError: the weighting is not one of these.

    >>> step = GridStep(size=1.0, count=2, axes=(0,))
    >>> [float(v) for v in pull_to_code([1.0, 1.0], [0.5, -0.25], step, strength=1.0)]
    [0.75, 1.125]
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"The weighting must be one of {WEIGHTINGS}. Received: {weighting!r}")
    strength = ops.divide(strength, step.count)  # scalars first: fewer passes over the tensor
    if weighting == "rms":
        strength = strength * ops.sqrt(_mean_square(upstream))
    elif weighting == "raw":
        strength = strength / (step.size * step.count)
    else:
        noise = ops.abs(upstream) * noise
    return upstream - strength * noise


def _mean_square(x: Tensor) -> Tensor:
    if keras.backend.backend() != "tensorflow":
        return ops.mean(ops.square(x))
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    elements = tf.cast(tf.size(x), x.dtype)
    return tf.nn.l2_loss(x) * (2.0 / elements)  # one kernel, without a tensor of squares
