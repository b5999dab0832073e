"""`GDNSQSchedule`: brings the learned bit widths of a model to their targets inside `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.callbacks.backend_state import synchronize
from keras_qat.keras_graph import falls, inner_optimizer, learning_rate_of
from keras_qat.model import QuantizedModel
from keras_qat.training.bit_width_penalty import BitWidthPenalty
from keras_qat.training.learned_bit_widths import LearnedWidth
from keras_qat.training.training_plan import Progress, TrainingPlan, planned_run, published_plan

RECIPES = ("planned", "published")
_CHECKS_IN_A_RUN = 50


class GDNSQSchedule(keras.callbacks.Callback):
    """Warm-up, a growing penalty on bit widths, and annealing once all targets are met.

    During warm-up the learning rate rises to the rate of the optimizer, and there is no penalty.
    Then the temperature of the penalty grows with every batch. The learning rate falls with the
    number of batches for which all targets were met (`TemperatureAnnealing`). The callback checks
    the targets about 50 times in a run.

    * `"planned"` (default) uses the number of batches that `fit` will do. By a power of two, it
      makes the learned steps and ranges move faster than the weights, and the temperature grow
      faster, so that targets are met by `arrive_by` of the run. It also changes grids by hand,
      outside of the gradient, about 50 times in a run:

      A width that is later than an even pace from `start_bits` to its target is narrowed to that
      pace: its steps are widened, and all its codes change. So all widths arrive, with any
      optimizer. A width that arrives is held: its number of levels is fixed from then on. At that
      moment its steps are set anew, and its codes change once more. A weight grid gets the steps
      with the least squared error on all levels of its target. The range of an activation is
      divided into all levels of its target.

      From then on steps learn as slowly as weights, and accuracy recovers while the learning rate
      falls to 0 along half a cosine.
    * `"published"` has the constants of the published code. It needs at least
      `(start_bits - bits) / learning_rate` batches; 1.1 to 2.1 times that was seen.

    If the optimizer has a `LearningRateSchedule`, only the penalty is scheduled. If another
    callback sets a learning rate between epochs, this schedule continues from it.

    When all targets are met, they stay met: every grid keeps its number of levels, and the penalty
    ends (with `offset="free"` it stays). All state lies in variables of the model, so with
    `keras.callbacks.BackupAndRestore` a killed run goes on where it was.

    At the end of an epoch, each validation metric (without validation, each training metric) is
    also logged as `<metric>_feasible`, such as `val_accuracy_feasible`. It is the metric if all
    targets are met. If not, it is minus the bits by which the worst width misses its target, or
    infinity for losses and other metrics that should be small. So
    `ModelCheckpoint(path, "val_accuracy_feasible", mode="max", save_best_only=True)` ends with a
    model that meets its targets. `assisted_widths` is logged too: the number of widths narrowed by
    hand in this epoch. Put this callback before the callbacks that read its logs.

    Source: GDNSQ (arXiv 2508.14004), its published code. The plan is our own.

    Args:
        recipe: `"planned"` or `"published"`.
        arrive_by: the share of the run after which targets are met, for the planned recipe.
        lossless: whether the temperature multiplies the task loss instead of the penalty. Widths
            then fall only as far as the task allows, and may miss their targets.
        verbose: 1 prints a line when targets are met, and if they are missed; 0 prints nothing.

    Raises:
        ValueError: when `fit` starts: a model without learned widths, a run of unknown length, or
            a run that is too short. The message names the number of batches that it needs.

    >>> GDNSQSchedule(arrive_by=0.5).recipe
    'planned'
    """

    schedules_bit_widths = True

    def __init__(
        self,
        recipe: str = "planned",
        arrive_by: float = 0.6,
        lossless: bool = False,
        verbose: int = 1,
    ):
        super().__init__()
        if recipe not in RECIPES:
            raise ValueError(f"The recipe must be one of {RECIPES}. Received: {recipe!r}")
        if not 0.0 < arrive_by < 1.0:
            raise ValueError(f"arrive_by must be between 0 and 1. Received: {arrive_by!r}")
        self.recipe = recipe
        self.arrive_by = arrive_by
        self.lossless = lossless
        self.verbose = verbose
        self._run: _Run | None = None

    @property
    def targets_met_at(self) -> int | None:
        """The number of batches after which all targets were met; `None` if they are not met."""
        return None if self._run is None else self._run.targets_met_at

    @property
    def _running(self) -> _Run:
        if self._run is None:
            raise RuntimeError("GDNSQSchedule has not begun: Keras calls on_epoch_begin first.")
        return self._run

    def on_train_begin(self, logs: Any = None) -> None:
        self._run = None
        if not isinstance(self.model, QuantizedModel) or self.model.bit_width_penalty is None:
            raise ValueError(
                "GDNSQSchedule needs a model that learns its bit widths, as "
                "keras_qat.quantize(model, keras_qat.GDNSQConfig(...)) returns. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._run is None:  # BackupAndRestore restores a killed run in on_train_begin
            self._run = self._begin(epoch)
        self._run.epoch_begins = True
        self._run.assisted.clear()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._started = batch
        self._running.set_rates()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for _ in range(self._started, batch + 1):
            self._running.advance()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            widths = self.model.learned_widths
            logs.update(feasible_metrics(logs, widths, lambda name: falls(self.model, name)))
            logs["assisted_widths"] = len(self._running.assisted)

    def on_train_end(self, logs: Any = None) -> None:
        if self._run is not None:
            self._run.end()

    def _begin(self, epoch: int) -> _Run:
        steps, epochs = self.params.get("steps"), self.params["epochs"]
        if not steps:
            raise ValueError(
                "GDNSQSchedule plans the whole run, and this dataset does not tell its length: "
                "pass steps_per_epoch to fit."
            )
        state = _State(self.model.bit_width_penalty)
        if not state.continues(steps * epochs, steps, epoch):
            rates = _learning_rates(self.model.optimizer, steps * (epochs - epoch))
            state.start(self._plan(rates))
        state.penalty.lossless.assign(float(self.lossless))
        return _Run(self.model, state, forces=not self.lossless, verbose=self.verbose)

    def _plan(self, learning_rates: np.ndarray) -> TrainingPlan:
        distance = max(0.0, max(map(_miss, self.model.learned_widths), default=0.0))
        if self.recipe == "published":
            return published_plan(learning_rates, distance)
        adaptive = not isinstance(inner_optimizer(self.model.optimizer), keras.optimizers.SGD)
        plan = planned_run(learning_rates, distance, self.arrive_by, adaptive)
        for width in self.model.learned_widths:
            width.quantizer.set_rate(plan.log_step_multiplier)
        return plan


def feasible_metrics(
    logs: dict[str, Any],
    widths: list[LearnedWidth],
    falling: Callable[[str], bool] = lambda name: name.endswith("loss"),
) -> dict[str, float]:
    """`<metric>_feasible` for every validation metric; without any, for every training metric.

    Args:
        logs: the logs of an epoch.
        widths: every learned width.
        falling: tells for the name of a metric whether smaller is better.

    >>> feasible_metrics({"loss": 0.5, "val_loss": 0.7, "val_accuracy": 0.9}, [])
    {'val_loss_feasible': 0.7, 'val_accuracy_feasible': 0.9}
    """
    validation = {name: value for name, value in logs.items() if name.startswith("val_")}
    feasible = all(width.meets_target() for width in widths)
    excess = 0.0 if feasible else max(map(_miss, widths))
    return {
        f"{name}_feasible": value if feasible else np.inf if falling(name) else -excess
        for name, value in (validation or logs).items()
    }


class _State:
    """The state of a run as named numbers, kept in variables of the penalty."""

    def __init__(self, penalty: BitWidthPenalty):
        self.penalty = penalty
        self.plan = penalty.kept_plan()
        self.progress = penalty.kept_progress()

    def continues(self, batches: int, batches_per_epoch: int, epoch: int) -> bool:
        """Whether the variables belong to a killed run that this run continues."""
        unfinished = self.plan.batches == batches and not self.progress.finished
        return unfinished and self.progress.batches // batches_per_epoch == epoch

    def start(self, plan: TrainingPlan) -> None:
        """Stores a plan, and resets the progress."""
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


class _Run:
    """The work before and after each batch of one `fit`.

    Attributes:
        epoch_begins: whether the next batch is the first one of an epoch.
        assisted: the widths narrowed by hand in this epoch.
    """

    def __init__(self, model: QuantizedModel, state: _State, forces: bool, verbose: int):
        self._model = model
        self._state = state
        self._schedule = state.plan.annealing()
        self._forces = forces
        self._planned = forces and state.plan.deadline > 0
        self._verbose = verbose
        self._check_every = max(1, int(state.plan.batches) // _CHECKS_IN_A_RUN)
        self._settable = _has_settable_rate(model.optimizer)
        self._holds = all(width.quantizer.deployable for width in model.learned_widths)
        self._factor = 1.0
        self._last_set: np.float32 | None = None
        self.epoch_begins = True
        self.assisted: set[tuple[str, bool]] = set()

    @property
    def targets_met_at(self) -> int | None:
        done = self._state.progress
        return done.batches - done.converged_batches if done.converged else None

    def set_rates(self) -> None:
        """Sets the learning rate and the temperature for the next batch."""
        synchronize(self._model)
        progress = self._state.progress
        state = progress.annealing
        held = progress.converged and self._forces and self._holds
        self._state.penalty.temperature.assign(
            0.0 if held else self._schedule.temperature_at(state)
        )
        if not self._settable:
            return
        if self.epoch_begins and self._last_set is not None:
            self._take_over_learning_rate()
        self.epoch_begins = False
        self._last_set = np.float32(self._factor * self._state.plan.learning_rate_at(state))
        self._model.optimizer.learning_rate = self._last_set

    def advance(self) -> None:
        """Updates the progress after a batch."""
        state = self._state
        done = self._schedule.advance(state.progress.annealing, state.progress.converged)
        state.note(batches=done.batches, converged_batches=done.converged_batches)
        if state.progress.batches % self._check_every == 0:
            synchronize(self._model)
            self._check()
        state.save()

    def end(self) -> None:
        """Checks the targets after the last batch, and marks the run as finished."""
        self._check()
        self._state.note(finished=True)
        self._state.save()
        if not self._state.progress.converged and self._forces:
            self._say(f"{self._missed()} after the last batch")

    def _check(self) -> None:
        state = self._state
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
            if late < 1.0 and not width.meets_target():
                distance = width.quantizer.start_bits - width.target
                if width.narrow(width.target + late * distance):
                    self.assisted.add((width.name, width.layer is None))
            if not width.meets_target():
                missed.append(width)
            elif width.quantizer.deployable:
                width.hold(refit=True)
        return missed

    def _arrive(self) -> None:
        widths = self._model.learned_widths
        self._say(f"all {len(widths)} targets are met")
        for width in widths:
            width.hold()
        if self._planned:
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
        found = float(ops.convert_to_numpy(self._model.optimizer.learning_rate))
        if found != self._last_set and self._last_set:
            self._factor *= found / float(self._last_set)


def _miss(width: LearnedWidth) -> float:
    """The bits by which the widest channel is above its target."""
    return float(np.max(ops.convert_to_numpy(width.widths()))) - width.target


def _has_settable_rate(optimizer: Any) -> bool:
    """Whether the learning rate is a plain number, not a `LearningRateSchedule`."""
    return isinstance(learning_rate_of(optimizer), keras.Variable)


def _learning_rates(optimizer: Any, batches: int) -> np.ndarray:
    """The learning rates of the next `batches` batches."""
    rate = learning_rate_of(optimizer)
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return np.full(batches, float(ops.convert_to_numpy(optimizer.learning_rate)))
    first = int(ops.convert_to_numpy(optimizer.iterations))
    steps = np.linspace(first, first + batches - 1, min(batches, 200)).astype(np.int64)
    sampled = [float(ops.convert_to_numpy(rate(int(step)))) for step in steps]
    return np.interp(np.arange(first, first + batches), steps, sampled)
