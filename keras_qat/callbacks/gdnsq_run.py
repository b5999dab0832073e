"""One run of `GDNSQSchedule`: what happens before and after each batch, and its state."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import learning_rate_of
from keras_qat.model import QuantizedModel
from keras_qat.training.backend_state import synchronize
from keras_qat.training.bit_width_penalty import BitWidthPenalty
from keras_qat.training.changes_by_hand import followed_by
from keras_qat.training.learned_bit_widths import LearnedWidth, settle_frozen_widths
from keras_qat.training.training_plan import Progress, TrainingPlan

_CHECKS_IN_A_RUN = 50
KEPT_OF_A_RUN = ("assisted", "refit_octaves", "_last_set", "_epoch_begins")
"""What a run that resumes in the middle of an epoch has to know, beside its variables."""


@dataclasses.dataclass(frozen=True)
class Handling:
    """What a run does to grids outside of the gradient. `GDNSQSchedule` explains the fields."""

    forces: bool
    assist: bool
    refit: bool
    fill: bool
    hold: bool


class RunState:
    """The state of a run as named numbers, kept in variables of the penalty."""

    def __init__(self, penalty: BitWidthPenalty):
        self.penalty = penalty
        self.plan = penalty.kept_plan()
        self.progress = penalty.kept_progress()

    def continues(self, epochs: int, batches_per_epoch: int, epoch: int, steps: int) -> bool:
        """Whether the variables belong to a killed run that this run continues.

        Args:
            epochs: the epoch at which the run ends.
            batches_per_epoch: the batches of an epoch.
            epoch: the epoch that begins.
            steps: the steps that the optimizer has taken. After `compile` it has taken none.
        """
        planned = self.plan.batches / batches_per_epoch
        done = self.progress.batches // batches_per_epoch
        same_place = 0 < planned <= epochs and done == epoch - (epochs - planned)
        same_optimizer = steps > 0 or self.progress.batches == 0
        return same_place and same_optimizer and not self.progress.finished

    def full_rate(self, rate: float, steps: int) -> float:
        """The learning rate to plan a new run with.

        A run that was interrupted leaves the optimizer with a rate of its schedule. The full rate
        is then the one that the run was planned with.
        """
        left = self.plan.has_left(self.progress, rate, steps)
        return self.plan.learning_rate if left else rate

    def change_since(self, rate: float) -> float:
        """A learning rate over the one that the schedule set for the last batch."""
        return self.plan.change_since(self.progress, rate)

    def rescale(self, change: float) -> None:
        """Multiplies the learning rates of the plan, and stores it."""
        self._keep(self.plan._replace(learning_rate=self.plan.learning_rate * change))

    def start(self, plan: TrainingPlan) -> None:
        """Stores a plan, and resets the progress and the mean of the loss."""
        self.penalty.forget_losses()
        self._keep(plan)
        self.progress = Progress()
        self.save()

    def recover_to_the_end(self) -> None:
        """Lets the learning rate fall over all remaining batches, also after an early arrival."""
        left = int(self.plan.batches) - self.progress.batches
        self._keep(self.plan.recovering_for(self.progress.converged_batches + left))

    def _keep(self, plan: TrainingPlan) -> None:
        """Stores a plan and reads it back, so that a resumed run has the same float32 numbers."""
        self.penalty.keep_plan(plan)
        self.plan = self.penalty.kept_plan()

    def note(self, **changes: Any) -> None:
        """Changes fields of the progress; `save` stores them in the variable."""
        self.progress = self.progress._replace(**changes)

    def save(self) -> None:
        self.penalty.keep_progress(self.progress)


class GDNSQRun:
    """The work before and after each batch of one `fit`.

    Args:
        model: the quantized model.
        state: the state of the run.
        handling: what the run does to grids.
        verbose: whether it prints lines.
        trainer: the model of the `fit`: the quantized one, or one around it.
        watches: whether another callback may set the learning rate before any batch. To look for
            it costs a wait for the device. If not, it may between epochs.

    Attributes:
        assisted: the widths narrowed by hand in this epoch.
        refit_octaves: the largest change of a step, in octaves, at an arrival in this epoch.
    """

    def __init__(
        self,
        model: QuantizedModel,
        state: RunState,
        handling: Handling,
        verbose: int,
        trainer: Any,
        watches: bool,
    ):
        self._model = model
        self._trainer = trainer
        self._state = state
        self._handling = handling
        self._planned = handling.forces and state.plan.deadline > 0
        self._verbose = verbose
        self._check_every = max(1, int(state.plan.batches) // _CHECKS_IN_A_RUN)
        self._settable = _has_settable_rate(trainer.optimizer)
        deploys = all(width.quantizer.deployable for width in model.learned_widths)
        self._ends_penalty = handling.forces and handling.hold and deploys
        self._watches = watches
        self._last_set: np.float32 | None = None
        self._epoch_begins = True
        self.assisted: set[tuple[str, bool]] = set()
        self.refit_octaves = 0.0

    @property
    def targets_met_at(self) -> int | None:
        done = self._state.progress
        return done.batches - done.converged_batches if done.converged else None

    def begin_epoch(self) -> None:
        """Begins to count what is done by hand."""
        self._epoch_begins = True
        self.assisted.clear()
        self.refit_octaves = 0.0

    def set_rates(self) -> None:
        """Sets the learning rate and the temperature for the next batch."""
        synchronize(self._trainer)
        progress = self._state.progress
        state = progress.annealing
        held = progress.converged and self._ends_penalty
        if self._settable:
            if self._last_set is not None and (self._epoch_begins or self._watches):
                self._take_over_learning_rate()
            self._epoch_begins = False
            self._last_set = np.float32(self._state.plan.learning_rate_at(state))
            self._trainer.optimizer.learning_rate = self._last_set
        self._state.penalty.temperature.assign(
            0.0 if held else self._state.plan.annealing().temperature_at(state)
        )

    def advance(self) -> None:
        """Updates the progress after a batch."""
        state = self._state
        synchronize(self._trainer)  # else Keras would overwrite on JAX what is assigned here
        schedule = state.plan.annealing()
        done = schedule.advance(state.progress.annealing, state.progress.converged)
        state.note(batches=done.batches, converged_batches=done.converged_batches)
        if state.progress.batches % self._check_every == 0:
            self.check()
        state.save()

    def end(self) -> None:
        """Checks the targets after the last batch, and marks the run as finished.

        What was set for the run alone ends: the optimizer has its full learning rate again, and the
        temperature that multiplied the task loss is gone.
        """
        synchronize(self._trainer)
        self.check()
        self._state.note(finished=True)
        self._state.save()
        if self._last_set is not None:
            self._take_over_learning_rate()
            self._trainer.optimizer.learning_rate = np.float32(self._state.plan.learning_rate)
        if not self._handling.forces:
            self._state.penalty.temperature.assign(0.0)
            self._state.penalty.lossless.assign(0.0)
        if not self._state.progress.converged and self._handling.forces:
            self._say(f"{self._missed()} after the last batch")

    def check(self) -> None:
        """Brings widths along, and notes whether all targets are met."""
        state = self._state
        with followed_by(self._trainer.optimizer, self._model.quantizers):
            settle_frozen_widths(self._model)
            missed = self._bring_along() if self._planned else self._missing()
            if not missed and not state.progress.converged:
                self._arrive()
        state.note(converged=not missed)

    def _bring_along(self) -> list[LearnedWidth]:
        """Narrows late widths, holds widths that met their targets, and returns the other ones.

        At its high rate, a width that is not held would move on past its target.
        """
        late, missed = self._state.plan.late(self._state.progress.batches), []
        for width in self._model.learned_widths:
            if width.quantizer.holds:
                continue
            met = width.meets_target()
            if self._handling.assist and late < 1.0 and not met:
                distance = max(width.quantizer.first_bits - width.target, 0)
                if width.narrow(width.target + late * distance):
                    self.assisted.add((width.name, width.layer is None))
                    met = width.meets_target()
            if not met:
                missed.append(width)
            elif self._handling.hold and width.quantizer.deployable:
                moved = width.hold(refit=self._handling.refit, fill=self._handling.fill)
                self.refit_octaves = max(self.refit_octaves, moved)
        return missed

    def _arrive(self) -> None:
        widths = self._model.learned_widths
        self._say(f"all {len(widths)} targets are met")
        for width in widths:
            if self._handling.hold:
                width.hold(fill=self._handling.fill)
            width.quantizer.set_rate(1.0)
        self._state.recover_to_the_end()

    def _missing(self) -> list[LearnedWidth]:
        return [width for width in self._model.learned_widths if not width.meets_target()]

    def _missed(self) -> str:
        missed = self._missing()
        names = ", ".join(width.name for width in missed[:3]) + (", ..." if missed[3:] else "")
        return f"{len(missed)} widths have not met their targets ({names})"

    def _say(self, what: str) -> None:
        if self._verbose:
            done, batches = self._state.progress.batches, int(self._state.plan.batches)
            print(f"\nGDNSQSchedule: batch {done} of {batches}: {what}.")

    def _take_over_learning_rate(self) -> None:
        """Adopts a learning rate that another callback set since the last batch."""
        found = float(ops.convert_to_numpy(self._trainer.optimizer.learning_rate))
        if found != self._last_set:
            last = float(self._last_set or self._state.plan.learning_rate)
            self._state.rescale(found / last)

    def resume(self) -> None:
        """Adopts a learning rate that was set after the last batch of the run that goes on."""
        if self._settable:
            found = float(ops.convert_to_numpy(self._trainer.optimizer.learning_rate))
            change = self._state.change_since(found)
            if change != 1.0:
                self._state.rescale(change)


def missed_bits(width: LearnedWidth) -> float:
    """The bits by which the widest channel is above its target."""
    return float(np.max(ops.convert_to_numpy(width.widths()))) - width.target


def _has_settable_rate(optimizer: Any) -> bool:
    """Whether the learning rate is a plain number, not a `LearningRateSchedule`."""
    return isinstance(learning_rate_of(optimizer), keras.Variable)
