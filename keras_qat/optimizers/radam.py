"""`RAdam`: Adam that uses its second moment only after enough gradients."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_qat.tensors import Tensor

_SERIES = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160)
_ENOUGH_SAMPLES = 5.0


def rectification(step: Tensor, beta_2: float) -> tuple[Tensor, Tensor]:
    """Whether a step is adaptive, and the factor that corrects the variance of its second moment.

    `r = r_inf - 2 * k * beta_2**k / (1 - beta_2**k)`, with `r_inf = 2 / (1 - beta_2) - 1`, is the
    length of a simple average with the same variance. A step is adaptive if `r > 5`. The factor is
    then `sqrt((r - 4) * (r - 2) * r_inf / ((r_inf - 4) * (r_inf - 2) * r))`, and 0 otherwise.

    `r` is the difference of nearly equal numbers. A series computes it without loss in float32.

    Args:
        step: the number `k` of the step, from 1.
        beta_2: the decay rate of the second moment.

    Returns: (adaptive, factor), scalars.

    >>> [bool(rectification(step, 0.999)[0]) for step in (5.0, 6.0)]
    [False, True]
    """
    decay = -math.log(beta_2)
    longest = 2.0 / (1.0 - beta_2) - 1.0
    x = decay * step
    square = ops.square(x)
    series = ops.zeros_like(x)
    for coefficient in reversed(_SERIES):
        series = (series + coefficient) * square
    # x / (exp(x) - 1) = 1 - x / 2 + series, and 2 / decay nearly cancels r_inf while x is small.
    early = (longest - 2.0 / decay) + step - (2.0 / decay) * series
    late = longest - (2.0 / decay) * (x / ops.expm1(x))
    length = ops.where(x < 1.0, early, late)
    ratio = (length - 4.0) * (length - 2.0) / ops.maximum(length, _ENOUGH_SAMPLES)
    evened = ratio * (longest / ((longest - 4.0) * (longest - 2.0)))
    adaptive = length > _ENOUGH_SAMPLES
    return adaptive, ops.sqrt(ops.where(adaptive, evened, 0.0))


@keras.saving.register_keras_serializable(package="keras_qat")
class RAdam(keras.optimizers.Optimizer):
    """Rectified Adam.

    For the step `k` from 1 and the gradient `g`:

        m = beta_1 * m + (1 - beta_1) * g          v = beta_2 * v + (1 - beta_2) * g**2
        m_hat = m / (1 - beta_1**k)                v_hat = sqrt(v) / sqrt(1 - beta_2**k)
        theta -= learning_rate * m_hat * factor / v_hat          (adaptive, see `rectification`)
        theta -= learning_rate * m_hat                           (not adaptive: the first 5 steps)

    `epsilon` is added to `sqrt(v)`. The moments are updated also while the learning rate is 0.

    Args:
        learning_rate: a float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1, beta_2: decay rates of the moments, from 0 to below 1; `beta_2` is at least 2/3.
        epsilon: keeps the division finite.
        **kwargs: arguments of any Keras optimizer: `weight_decay` (decoupled), `clipnorm`, ...

    Raises:
        ValueError: a decay rate out of its range.

    Source: Liu et al. 2020 (arXiv 1908.03265).

    >>> theta = keras.Variable([1.0, -1.0])
    >>> RAdam(learning_rate=0.5).apply([keras.ops.array([1.0, 0.0])], [theta])
    >>> [round(float(v), 3) for v in theta.value]
    [0.5, -1.0]
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "radam",
        **kwargs: Any,
    ):
        if not 0.0 <= beta_1 < 1.0:
            raise ValueError(f"beta_1 must be at least 0 and below 1. Received: beta_1={beta_1!r}")
        if not 2 / 3 <= beta_2 < 1.0:
            raise ValueError(
                f"beta_2 must be at least 2/3 and below 1: below 2/3, no step is adaptive. "
                f"Received: beta_2={beta_2!r}"
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        step = ops.cast(self.iterations + 1, "float32")
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign(momentum, momentum + (gradient - momentum) * (1.0 - self.beta_1))
        self.assign(velocity, velocity + (ops.square(gradient) - velocity) * (1.0 - self.beta_2))

        adaptive, factor = rectification(step, self.beta_2)
        rate = ops.cast(learning_rate, "float32") / _one_minus_power(self.beta_1, step)
        adaptive_rate = rate * factor * ops.sqrt(_one_minus_power(self.beta_2, step))
        root = ops.sqrt(ops.convert_to_tensor(velocity)) + self.epsilon
        self.assign_sub(
            variable,
            momentum
            * ops.where(adaptive, ops.cast(adaptive_rate, dtype) / root, ops.cast(rate, dtype)),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _one_minus_power(base: float, step: Tensor) -> Tensor:
    """`1 - base**step` without cancellation."""
    return -ops.expm1(math.log(base) * step) if base else ops.ones_like(step)
