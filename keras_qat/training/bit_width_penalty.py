"""`BitWidthPenalty`: the state and the logs of the exterior-point penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.file_format import with_later_variables
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.tensors import Tensor
from keras_qat.training.distribution import replica_share, whole_loss
from keras_qat.training.learned_bit_widths import LearnedWidth, joint_widths
from keras_qat.training.losses import RunningMean, exterior_point_potential
from keras_qat.training.training_plan import Progress, TrainingPlan

_LAST_VALUES = (
    "weight_violation",
    "activation_violation",
    "mean_weight_bits",
    "max_weight_bits",
    "mean_activation_bits",
    "max_activation_bits",
)


class PenaltyLog(keras.metrics.Metric):
    """The terms of the penalty by name: the mean task loss of the epoch, and the latest widths.

    `weight_violation` and `activation_violation` are the mean bits above target. The other values
    are the mean and the maximum of the real-valued widths, over the channels of all weights
    (`mean_weight_bits`, `max_weight_bits`) and over all activations (`mean_activation_bits`,
    `max_activation_bits`). A model without learned widths of activations, as with
    `activation_bits=None`, does not log theirs. Several replicas log their mean; widths are the
    same on all.
    """

    def __init__(self, name: str = "penalty_log", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self._task_loss, self._batches, *self._values = (
            self.add_variable((), "zeros", name=name, aggregation="mean")
            for name in ("task_loss", "batches", *_LAST_VALUES)
        )
        self._logged: tuple[str, ...] = _LAST_VALUES

    def update_state(self, task_loss: Tensor, **values: Tensor) -> None:
        """Adds the terms of one batch. Terms that are not given are not in the result."""
        self._batches.assign_add(1.0)
        step = (ops.cast(task_loss, "float32") - self._task_loss) / self._batches
        self._task_loss.assign_add(step)
        self._logged = tuple(name for name in _LAST_VALUES if name in values)
        for name, variable in zip(_LAST_VALUES, self._values, strict=True):
            if name in values:
                variable.assign(ops.cast(values[name], "float32"))

    def result(self) -> dict[str, Tensor]:
        values = dict(zip(_LAST_VALUES, map(as_tensor, self._values), strict=True))
        logged = {name: values[name] for name in self._logged}
        return {"task_loss": as_tensor(self._task_loss), **logged}


class BitWidthPenalty(keras.layers.Layer):
    """Adds the exterior-point penalty on learned bit widths to a training loss.

    The formula is `keras_qat.training.losses.exterior_point_potential`. All state lies in
    variables, and so is saved with the model: the running mean of the task loss, and the variables
    that `keras_qat.callbacks.GDNSQSchedule` sets. Without a schedule, the `temperature` is 0 and
    nothing is added.
    """

    def __init__(self, name: str = "bit_width_penalty", **kwargs: Any):
        super().__init__(name=name, dtype="float32", trainable=False, **kwargs)
        self.log = PenaltyLog()
        self.mean_loss = self._state("mean_loss")
        self.mean_loss_count = self._state("mean_loss_count", 1.0)
        self.temperature = self._state("temperature")
        self.lossless = self._state("lossless")
        self.plan = self._state("plan", shape=(len(TrainingPlan._fields),))
        self.progress = self._state("progress", shape=(len(Progress._fields),))
        self.exponent = self._state("exponent", 1.0)
        self.built = True

    def load_own_variables(self, store: Any) -> None:
        """Loads the variables. Older files lack the exponent, which stays 1."""
        own = [*self._trainable_variables, *self._non_trainable_variables]
        super().load_own_variables(with_later_variables(store, own))

    def _state(self, name: str, start: float = 0.0, shape: tuple[int, ...] = ()) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(start),
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def kept_plan(self) -> TrainingPlan:
        """The plan in the variable `plan`. It reads a variable: not for use in a step."""
        return TrainingPlan.of(self.plan)

    def forget_losses(self) -> None:
        """Starts the running mean of the task loss anew: another run may have another loss."""
        start = RunningMean.start()
        self.mean_loss.assign(start.value)
        self.mean_loss_count.assign(start.count)

    def keep_plan(self, plan: TrainingPlan) -> None:
        """Stores a plan in the variable `plan`."""
        self.plan.assign(np.asarray(plan, np.float32))

    def kept_progress(self) -> Progress:
        """The progress in the variable `progress`. It reads a variable: not for use in a step."""
        return Progress.of(self.progress)

    def keep_progress(self, progress: Progress) -> None:
        """Stores the progress in the variable `progress`."""
        self.progress.assign(np.asarray(progress, np.float32))

    def add_to(self, task_loss: Tensor, widths: Sequence[LearnedWidth]) -> Tensor:
        """The loss to train on; updates the running mean and the log.

        Args:
            task_loss: scalar; with several replicas, the share of this one.
            widths: every learned width.
        """
        task_loss = whole_loss(ops.cast(task_loss, "float32"))
        weights = _Widths([width for width in widths if width.layer is not None])
        activations = _Widths([width for width in widths if width.layer is None])
        mean_loss = RunningMean(as_tensor(self.mean_loss), as_tensor(self.mean_loss_count))
        potential = exterior_point_potential(
            task_loss,
            weights.bits,
            activations.bits,
            weights.targets,
            activations.targets,
            as_tensor(self.temperature),
            mean_loss,
            lossless=as_tensor(self.lossless) > 0.0,
            squared=as_tensor(self.exponent) > 1.0,
        )
        self.mean_loss.assign(potential.mean_loss.value)
        self.mean_loss_count.assign(potential.mean_loss.count)
        self.log.update_state(
            task_loss=task_loss,
            **weights.terms("weight", potential.weight_penalty),
            **activations.terms("activation", potential.activation_penalty),
        )
        return replica_share(potential.loss)


class _Widths:
    """The widths of several quantizers in one vector, and their targets in another.

    A held grid has the width of its target, and an infinite target, so it costs nothing.
    """

    def __init__(self, widths: Sequence[LearnedWidth]):
        self._empty = not widths
        if self._empty:
            self.bits = self.targets = ops.zeros((0,))
            return
        widths, counts, bits = joint_widths(widths)
        targets = np.repeat(np.array([width.target for width in widths], np.float32), counts)
        owners = np.repeat(np.arange(len(counts)), counts)
        held = ops.stack([width.held_levels() for width in widths]) > 0.0
        held = ops.take(held, owners)
        self.bits = ops.where(held, targets, bits)
        self.targets = ops.where(held, np.inf, targets)

    def terms(self, kind: str, violation: Tensor) -> dict[str, Tensor]:
        """The terms for the log; none without widths."""
        if self._empty:
            return {}
        return {
            f"{kind}_violation": violation,
            f"mean_{kind}_bits": ops.mean(self.bits),
            f"max_{kind}_bits": ops.max(self.bits),
        }
