"""Losses of quantization-aware training: on bit widths, against a teacher, on codes.

Source: GDNSQ (arXiv 2508.14004), its published code, unless a function names another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_qat.tensors import Tensor

MARGIN = 1e-3
"""The bits below its target that a width aims at. It also keeps the shares above 0."""


class RunningMean(NamedTuple):
    """`value`, the sum of the task losses' magnitudes over `count`, which is 1 plus their number.

    The first call thus sees 0 and has no penalty, as published. The state is a mean, because a sum
    in float32 would lose the losses of a long run. The published sum has the losses themselves:
    the same, unless a loss is negative, as a cosine similarity is. A loss that is not finite does
    not count.
    """

    value: Tensor
    count: Tensor

    @classmethod
    def start(cls) -> RunningMean:
        """The state before the first call: a mean of 0."""
        return cls(ops.zeros(()), ops.ones(()))

    def updated(self, loss: Tensor) -> RunningMean:
        """The mean `value + (|loss| - value) / (count + 1)`, without gradient."""
        loss = ops.abs(ops.stop_gradient(loss))
        count = ops.cast(self.count, "float32") + 1.0
        counts = ops.isfinite(loss)
        value = ops.where(counts, self.value + (loss - self.value) / count, self.value)
        return RunningMean(value, ops.where(counts, count, count - 1.0))


class Potential(NamedTuple):
    """The loss to train on, the state for the next call, and the terms for monitoring."""

    loss: Tensor
    mean_loss: RunningMean
    weight_penalty: Tensor
    activation_penalty: Tensor
    weight_share: Tensor
    activation_share: Tensor


def exterior_point_potential(
    task_loss: Tensor,
    weight_widths: Tensor,
    activation_widths: Tensor,
    weight_bits: Tensor,
    activation_bits: Tensor,
    temperature: Tensor,
    mean_loss: RunningMean,
    lossless: bool | Tensor = False,
    squared: bool | Tensor = False,
) -> Potential:
    """The task loss and a growing penalty on every bit width above its target.

    Forward: `W = mean(max(0, weight_widths - (weight_bits - m)))`, with the margin `m = 1e-3`. `A`
    is the same for activations. With `nw` weight widths and `na` activation widths above their
    targets less `m`, `c = abs(mean_loss.value)` and `t = temperature`:

        penalty = c * ((nw + m) / (nw + na + m) * W + (na + m) / (nw + na + m) * A)
        loss = t * penalty + task_loss              (lossless: penalty + t * task_loss)

    With `squared`, the excess `max(0, ...)` is squared before the mean, so that the gradient has no
    jump where a width meets its target.

    Backward: only the task loss and the widths that are counted get a gradient; a weight width gets
    `t * c * share / weight_widths.size`, with `squared` times twice its excess. The counts, `c`,
    `t` and the targets get none.

    Args:
        task_loss: scalar.
        weight_widths: real-valued widths in bits, one per channel of all layers, `(channels,)`.
        activation_widths: one per activation quantizer, `(quantizers,)`. Either may be empty.
        weight_bits, activation_bits: the targets.
        temperature: a factor that grows during training, see `TemperatureAnnealing`.
        mean_loss: the state that the last call returned; `RunningMean.start()` for the first call.
        lossless: whether `temperature` multiplies the task loss instead of the penalty.
        squared: whether the exponent of the excess is 2 instead of 1.

    >>> state = RunningMean(value=2.0, count=1.0)
    >>> potential = exterior_point_potential(4.0, [3.0, 1.0], [1.5], 2, 2, 1.0, state)
    >>> round(float(potential.loss), 3), float(potential.mean_loss.value)
    (5.001, 3.0)
    """
    weights_over, weight_penalty = _excess(weight_widths, weight_bits, squared)
    activations_over, activation_penalty = _excess(activation_widths, activation_bits, squared)
    everything = weights_over + activations_over + MARGIN
    weight_share = (weights_over + MARGIN) / everything
    activation_share = (activations_over + MARGIN) / everything
    penalty = weight_share * weight_penalty + activation_share * activation_penalty
    penalty = ops.abs(ops.stop_gradient(mean_loss.value)) * penalty
    temperature = ops.stop_gradient(temperature)
    loss = ops.where(lossless, penalty + temperature * task_loss, temperature * penalty + task_loss)
    return Potential(
        loss,
        mean_loss.updated(task_loss),
        weight_penalty,
        activation_penalty,
        weight_share,
        activation_share,
    )


def _excess(widths: Tensor, bits: Tensor, squared: bool | Tensor) -> tuple[Tensor, Tensor]:
    """The number of widths above target, and the mean (squared) excess over all widths."""
    widths = ops.convert_to_tensor(widths)
    if 0 in widths.shape:
        return ops.zeros(()), ops.zeros(())
    excess = ops.relu(widths - (ops.cast(bits, widths.dtype) - MARGIN))
    over = ops.sum(ops.cast(excess > 0, widths.dtype))
    if squared is False:
        return over, ops.mean(excess)
    return over, ops.mean(ops.where(squared, ops.square(excess), excess))


def sinusoidal_regularization(position: Tensor) -> Tensor:
    """`mean sin(pi * v)**2` over positions `v` on a grid, in steps: 0 on codes, 1 half way.

    Backward: `dv = pi * sin(2 * pi * v) / elements`. Descent moves a value to its nearest code.

    Source: WaveQ (Elthakeb et al. 2020, arXiv 2003.00146), its term on weights. The paper takes the
    sum, divided by a power of two of a learned number of bits. The mean is our own.

    >>> [round(float(sinusoidal_regularization([v])), 3) for v in (-1.0, 0.25, 0.5)]
    [0.0, 0.5, 1.0]
    """
    position = ops.convert_to_tensor(position)
    return ops.mean(ops.square(ops.sin(math.pi * position)))


TeacherLoss = Callable[[Tensor, Tensor], Tensor]
"""A loss of the student's and the teacher's logits, or of their outputs."""

_PER_POSITION: dict[TeacherLoss, TeacherLoss] = {}


def _mean_of(values: TeacherLoss) -> TeacherLoss:
    """The loss that is the mean of such values over all examples and positions."""

    @functools.wraps(values)
    def loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return ops.mean(values(student_logits, teacher_logits))

    _PER_POSITION[loss] = values
    return loss


def per_position(loss: TeacherLoss) -> TeacherLoss:
    """The values whose mean is the loss, one for each position, `(batch, ...)`.

    Weights of samples multiply them. Any other function is returned as it is.

    >>> values = per_position(mean_squared_difference)([[1.0, 2.0]], [[1.0, 4.0]])
    >>> [float(value) for value in values]
    [2.0]
    """
    return _PER_POSITION.get(loss, loss)


@_mean_of
def jeffreys_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`J = mean_b sum_c (y - p) * (log y - log p)`: both Kullback-Leibler divergences, not halved.

    The mean runs over examples and, for outputs such as the pixels of an image, over positions.

    `p` and `y` are the softmax of student and teacher. `J` is computed from log-probabilities, so
    it is finite for all finite logits. Backward, with `d = log p - log y`:
    `dJ/dlogits = (p * (d - sum_c p * d) + p - y) / batch`.

    Args (of every loss here):
        student_logits, teacher_logits: `(batch, ..., classes)`; the teacher gets no gradient.

    Returns: a scalar, in nats.

    >>> round(float(jeffreys_divergence([[0.0, 1.0]], [[1.0, 0.0]])), 4)
    0.9242
    """
    log_p, log_y = _log_probabilities(student_logits, teacher_logits)
    return _sum((ops.exp(log_y) - ops.exp(log_p)) * (log_y - log_p))


@_mean_of
def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`mean_b sum_c -y * log p`. Backward: `(p - y) / batch`.

    >>> round(float(soft_cross_entropy([[0.0, 0.0]], [[3.0, 0.0]])), 4)
    0.6931
    """
    log_p, log_y = _log_probabilities(student_logits, teacher_logits)
    return _sum(-ops.exp(log_y) * log_p)


@_mean_of
def symmetric_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`mean_b sum_c -y * log p - p * log y`.

    Backward, with `l = log y`: `(p - y - p * (l - sum_c p * l)) / batch`.

    >>> round(float(symmetric_cross_entropy([[0.0, 0.0]], [[0.0, 0.0]])), 4)
    1.3863
    """
    log_p, log_y = _log_probabilities(student_logits, teacher_logits)
    return _sum(-ops.exp(log_y) * log_p - ops.exp(log_p) * log_y)


@_mean_of
def kullback_leibler_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`KL(y||p) = mean_b sum_c y * (log y - log p)`. Backward: `(p - y) / batch`.

    The published code also divides by the number of classes. This is the divergence itself.

    >>> float(kullback_leibler_divergence([[1.0, 2.0]], [[1.0, 2.0]]))
    0.0
    """
    log_p, log_y = _log_probabilities(student_logits, teacher_logits)
    return _sum(ops.exp(log_y) * (log_y - log_p))


@_mean_of
def hellinger_distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`mean_b mean_c (sqrt(p) - sqrt(y))**2`, as published up to a factor.

    This is twice the squared Hellinger distance, divided by the number of classes. Backward, with
    `u = (p - sqrt(p * y)) / classes`: `(u - p * sum_c u) / batch`.

    >>> round(float(hellinger_distance([[99.0, 0.0]], [[0.0, 99.0]])), 4)
    1.0
    """
    log_p, log_y = _log_probabilities(student_logits, teacher_logits)
    return _mean(ops.square(ops.exp(0.5 * log_p) - ops.exp(0.5 * log_y)))


@_mean_of
def jensen_shannon_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`mean_b (KL(p||m) + KL(y||m)) / 2` with `m = (p + y) / 2`; at most `log 2`.

    The published loss of this name mixes log-probabilities, which makes it the Jeffreys
    divergence over twice the number of classes. This is the divergence itself. Backward, with
    `u = log p - log m`: `p * (u - sum_c p * u) / (2 * batch)`.

    >>> round(float(jensen_shannon_divergence([[99.0, 0.0]], [[0.0, 99.0]])), 4)
    0.6931
    """
    log_p, log_y = _log_probabilities(student_logits, teacher_logits)
    log_m = ops.logaddexp(log_p, log_y) - ops.log(2.0)
    from_p = ops.exp(log_p) * (log_p - log_m)
    return _sum(0.5 * (from_p + ops.exp(log_y) * (log_y - log_m)))


@_mean_of
def mean_absolute_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean |s - t|` over all elements, for regression. Backward: `sign(s - t) / elements`.

    >>> float(mean_absolute_difference([1.0, 2.0], [3.0, 2.0]))
    1.0
    """
    return _mean(ops.abs(ops.convert_to_tensor(student) - ops.stop_gradient(teacher)))


@_mean_of
def mean_squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean (s - t)**2` over all elements, for regression. Backward: `2 * (s - t) / elements`.

    >>> float(mean_squared_difference([1.0, 2.0], [3.0, 2.0]))
    2.0
    """
    return _mean(ops.square(ops.convert_to_tensor(student) - ops.stop_gradient(teacher)))


DISTILLATION_LOSSES: dict[str, TeacherLoss] = {
    "jeffreys": jeffreys_divergence,
    "soft_cross_entropy": soft_cross_entropy,
    "symmetric_cross_entropy": symmetric_cross_entropy,
    "kl": kullback_leibler_divergence,
    "hellinger": hellinger_distance,
    "jensen_shannon": jensen_shannon_divergence,
    "l1": mean_absolute_difference,
    "l2": mean_squared_difference,
}
"""Every loss against a teacher by name; the loss of GDNSQ is "jeffreys"."""

OF_OUTPUTS = (mean_absolute_difference, mean_squared_difference)
"""The losses that compare outputs as they are. The others read logits of classes."""


def get_distillation_loss(identifier: str | TeacherLoss) -> TeacherLoss:
    """The distillation loss of a name; a function is returned as it is.

    >>> get_distillation_loss("kl").__name__
    'kullback_leibler_divergence'
    """
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier in DISTILLATION_LOSSES:
        return DISTILLATION_LOSSES[identifier]
    raise ValueError(
        f"The distillation loss must be a function or one of {sorted(DISTILLATION_LOSSES)}. "
        f"Received: {identifier!r}"
    )


def _log_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = ops.convert_to_tensor(student_logits), ops.convert_to_tensor(teacher_logits)
    for logits in (student, teacher):
        if len(logits.shape) < 2 or logits.shape[-1] == 1:
            raise ValueError(
                "Logits must have the shape (batch, ..., classes), with two classes or more. "
                f"Received: {tuple(student.shape)} and {tuple(teacher.shape)}. For outputs that "
                'are no classes, use the loss "l2" or "l1".'
            )
    return ops.log_softmax(student), ops.stop_gradient(ops.log_softmax(teacher))


def _sum(values: Tensor) -> Tensor:
    return ops.sum(values, axis=-1)


def _mean(values: Tensor) -> Tensor:
    """The mean over the last axis; numbers, one for each example, stay as they are."""
    return ops.mean(values, axis=-1) if len(values.shape) > 1 else values
