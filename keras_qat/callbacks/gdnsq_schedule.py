"""`GDNSQSchedule`: brings the learned bit widths of a model to their targets inside `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.callbacks.gdnsq_run import KEPT_OF_A_RUN, GDNSQRun, Handling, RunState, missed_bits
from keras_qat.callbacks.trained_model import check_loss_of_outer, trained_model
from keras_qat.errors import DIVERGED
from keras_qat.keras_graph import falls, inner_optimizer, learning_rate_of
from keras_qat.training.changes_by_hand import followed_by
from keras_qat.training.finite_values import non_finite_values
from keras_qat.training.learned_bit_widths import LearnedWidth
from keras_qat.training.training_plan import TrainingPlan, planned_run, published_plan

RECIPES = ("planned", "published")
FEWER_LEVELS = ("fill", "keep")
AFTER_ARRIVAL = ("hold", "penalty")
ANNEALINGS = ("recipe", "cosine", "exponential", None)
EXPONENTS = (1, 2)

_FAR_ABOVE = 1e9
"""What a metric that should be small is above, while a width misses its target."""


class GDNSQSchedule(keras.callbacks.Callback):
    """Warm-up, a growing penalty on bit widths, and annealing once all targets are met.

    During warm-up the learning rate rises to the rate of the optimizer, and there is no penalty.
    Then the temperature of the penalty grows with every batch. The learning rate falls with the
    number of batches for which all targets were met (`TemperatureAnnealing`). The callback checks
    the targets about 50 times in a run.

    * `"planned"` (default) uses the number of batches that `fit` will do. By a power of two, it
      makes the learned steps and ranges move faster than the weights, and the temperature grow
      faster, so that targets are met by `arrive_by` of the run. From then on steps learn as slowly
      as weights, and accuracy recovers while the learning rate falls to 0 along half a cosine.
    * `"published"` has the constants of the published code. It needs at least
      `(start_bits - bits) / learning_rate` batches; 1.1 to 2.1 times that was seen. With
      `after_arrival="penalty"` it is the whole published method.

    The planned recipe also changes grids by hand, outside of the gradient, at each check:

    * With `assist`, a width that is later than an even pace from its start to its target is
      narrowed to that pace: its steps are widened, and all its codes change. So all widths arrive,
      with any optimizer. Without it, a width may miss its target.
    * With `refit`, the steps of a width that arrives are set anew, and its codes change once more.
      A weight grid gets the steps with the least squared error on its levels. The range of an
      activation is divided into its levels.
    * A channel that arrives with fewer levels than its target gets all of them, or keeps its own
      with `fewer_levels="keep"`.

    The widths of frozen layers, which no gradient moves, are brought to their targets at once.

    If the optimizer has a `LearningRateSchedule`, only the penalty is scheduled. If another
    callback sets a learning rate, this schedule continues from it. At the end of the run the
    optimizer has its full learning rate again, for a next `fit`.

    With `after_arrival="hold"`, targets stay met once they are met: every grid keeps its number of
    levels, and the penalty ends. With "penalty", and with `offset="free"`, levels stay free and the
    penalty goes on, so a width may leave its target again.

    All state lies in variables of the model, so with `keras_qat.callbacks.Backup` a killed
    run goes on where it was.

    At the end of an epoch, each validation metric (without validation, each training metric) is
    also logged as `<metric>_feasible`, such as `val_accuracy_feasible`. It is the metric if all
    targets are met. If not, it is minus the bits by which the worst width misses its target. For
    losses and other metrics that should be small it is 1e9 plus these bits, so that an
    `EarlyStopping` sees it fall. A metric whose direction and name do not tell what is better is
    left out until all targets are met. So
    `ModelCheckpoint(path, "val_accuracy_feasible", mode="max", save_best_only=True)` ends with a
    model that meets its targets. Two counts say how much was done by hand in the epoch:
    `assisted_widths`, the number of narrowed widths, and `refit_octaves`, the largest change of a
    step at an arrival (0 without one). Put this callback before the callbacks that read its logs.

    Source: GDNSQ (arXiv 2508.14004), its published code. The plan is our own.

    Args:
        recipe: `"planned"` or `"published"`.
        arrive_by: the share of the run after which targets are met, for the planned recipe.
        lossless: whether the temperature multiplies the task loss instead of the penalty. Widths
            then fall only as far as the task allows, and may miss their targets.
        verbose: 1 prints a line when targets are met, and if they are missed; 0 prints nothing.
        assist, refit: whether grids are changed by hand, see above; planned recipe only.
        fewer_levels: "fill" or "keep", see above.
        after_arrival: "hold" or "penalty", see above.
        anneal: how the learning rate falls once all targets are met: "cosine" to 0 at the end of
            the run, "exponential" by 0.9985 per batch, `None` not at all. "recipe" is "cosine" for
            the planned recipe and "exponential" for the published one.
        exponent: 1, or 2 for a penalty on the square of the excess, which is smooth at the target.

    Raises:
        ValueError: an option has a value that is not allowed. When `fit` starts: a model without
            learned widths, a run of unknown length, or a run that is too short. The message names
            the number of batches that it needs.

    >>> GDNSQSchedule(arrive_by=0.5).recipe
    'planned'
    """

    schedules_bit_widths = True
    kept_by_backup = tuple(f"_run.{name}" for name in KEPT_OF_A_RUN)

    def __init__(
        self,
        recipe: str = "planned",
        arrive_by: float = 0.6,
        lossless: bool = False,
        verbose: int = 1,
        assist: bool = True,
        refit: bool = True,
        fewer_levels: str = "fill",
        after_arrival: str = "hold",
        anneal: str | None = "recipe",
        exponent: int = 1,
    ):
        super().__init__()
        for name, value, allowed in (
            ("recipe", recipe, RECIPES),
            ("fewer_levels", fewer_levels, FEWER_LEVELS),
            ("after_arrival", after_arrival, AFTER_ARRIVAL),
            ("anneal", anneal, ANNEALINGS),
            ("exponent", exponent, EXPONENTS),
        ):
            if value not in allowed:
                raise ValueError(f"The {name} must be one of {allowed}. Received: {value!r}")
        if not 0.0 < arrive_by < 1.0:
            raise ValueError(f"arrive_by must be between 0 and 1. Received: {arrive_by!r}")
        self.recipe = recipe
        self.arrive_by = arrive_by
        self.lossless = lossless
        self.verbose = verbose
        self.assist = assist
        self.refit = refit
        self.fewer_levels = fewer_levels
        self.after_arrival = after_arrival
        self.anneal = anneal
        self.exponent = exponent
        self.watches_rate = True  # `fit` of a quantized model knows whether it has to
        self._run: GDNSQRun | None = None
        self._quantized: Any = None  # the quantized model, once training begins

    @property
    def targets_met_at(self) -> int | None:
        """The number of batches after which all targets were met; `None` if they are not met."""
        return None if self._run is None else self._run.targets_met_at

    @property
    def _running(self) -> GDNSQRun:
        if self._run is None:
            raise RuntimeError("GDNSQSchedule has not begun: Keras calls on_epoch_begin first.")
        return self._run

    def on_train_begin(self, logs: Any = None) -> None:
        self._run = None
        self._quantized = trained_model(self.model)
        if self._quantized is None or self._quantized.bit_width_penalty is None:
            raise ValueError(
                "GDNSQSchedule needs a model that learns its bit widths, as "
                "keras_qat.quantize(model, keras_qat.GDNSQConfig(...)) returns. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )
        check_loss_of_outer(self.model, self._quantized, "GDNSQSchedule")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._run is None:  # BackupAndRestore restores a killed run in on_train_begin
            self._run = self._begin(epoch)
        self._run.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._started = batch
        self._running.set_rates()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for _ in range(self._started, batch + 1):
            self._running.advance()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            widths = self._quantized.learned_widths
            logs.update(feasible_metrics(logs, widths, lambda name: falls(self.model, name)))
            logs["assisted_widths"] = len(self._running.assisted)
            logs["refit_octaves"] = self._running.refit_octaves

    def on_train_end(self, logs: Any = None) -> None:
        if self._run is not None:
            self._run.end()

    def _begin(self, epoch: int) -> GDNSQRun:
        steps, epochs = self.params.get("steps"), self.params["epochs"]
        if not steps:
            raise ValueError(
                "GDNSQSchedule plans the whole run, and this dataset does not tell its length: "
                "pass steps_per_epoch to fit."
            )
        state = RunState(self._quantized.bit_width_penalty)
        taken = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        continues = state.continues(epochs, steps, epoch, taken)
        if not continues:
            self._check_finite()
            rates = _learning_rates(self.model.optimizer, steps * (epochs - epoch), state, taken)
            plan = self._plan(rates)
            state.start(plan if self.anneal == "recipe" else plan.annealed(self.anneal))
        state.penalty.lossless.assign(float(self.lossless))
        state.penalty.exponent.assign(float(self.exponent))
        handling = Handling(
            forces=not self.lossless,
            assist=self.assist,
            refit=self.refit,
            fill=self.fewer_levels == "fill",
            hold=self.after_arrival == "hold",
        )
        watches = self.watches_rate
        run = GDNSQRun(self._quantized, state, handling, self.verbose, self.model, watches)
        if continues:
            run.resume()
        else:
            run.check()  # a width that starts at its target has arrived
        return run

    def _check_finite(self) -> None:
        """A width that is learned follows from weights and steps, which must be numbers."""
        for layer in self._quantized.layers:
            for name, count, size in non_finite_values(layer):
                raise ValueError(
                    f"Layer {layer.name!r} holds NaN or infinity in {count} of {size} values of "
                    f"{name!r}, so GDNSQSchedule cannot plan its bit widths. {DIVERGED}"
                )

    def _plan(self, learning_rates: np.ndarray) -> TrainingPlan:
        distance = max(0.0, max(map(missed_bits, self._quantized.learned_widths), default=0.0))
        if self.recipe == "published":
            return published_plan(learning_rates, distance)
        adaptive = not isinstance(inner_optimizer(self.model.optimizer), keras.optimizers.SGD)
        plan = planned_run(learning_rates, distance, self.arrive_by, adaptive)
        with followed_by(self.model.optimizer, self._quantized.quantizers):
            for width in self._quantized.learned_widths:
                width.quantizer.set_rate(plan.log_step_multiplier)
        return plan


def feasible_metrics(
    logs: dict[str, Any],
    widths: list[LearnedWidth],
    falling: Callable[[str], bool | None] = lambda name: name.endswith("loss"),
) -> dict[str, float]:
    """`<metric>_feasible` for every validation metric; without any, for every training metric.

    Args:
        logs: the logs of an epoch.
        widths: every learned width.
        falling: tells for the name of a metric whether smaller is better; `None` if unknown.

    >>> feasible_metrics({"loss": 0.5, "val_loss": 0.7, "val_accuracy": 0.9}, [])
    {'val_loss_feasible': 0.7, 'val_accuracy_feasible': 0.9}
    """
    validation = {name: value for name, value in logs.items() if name.startswith("val_")}
    feasible = all(width.meets_target() for width in widths)
    shown = validation or logs
    if feasible:
        return {f"{name}_feasible": value for name, value in shown.items()}
    excess = max(map(missed_bits, widths))
    directions = {name: falling(name) for name in shown}
    return {
        f"{name}_feasible": _FAR_ABOVE + excess if less else -excess
        for name, less in directions.items()
        if less is not None
    }


def _learning_rates(optimizer: Any, batches: int, state: RunState, first: int) -> np.ndarray:
    """The learning rates of the next `batches` batches, after the first ones."""
    rate = learning_rate_of(optimizer)
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        found = float(ops.convert_to_numpy(optimizer.learning_rate))
        return np.full(batches, state.full_rate(found, first))
    steps = np.linspace(first, first + batches - 1, min(batches, 200)).astype(np.int64)
    sampled = [float(ops.convert_to_numpy(rate(int(step)))) for step in steps]
    return np.interp(np.arange(first, first + batches), steps, sampled)
