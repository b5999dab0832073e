"""The constants of a GDNSQ run, chosen from its number of batches, and its progress."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.schedules import AnnealingState, Cosine, TemperatureAnnealing

PUBLISHED_WARMUP = 50
PUBLISHED_ANNEAL = 0.9985
PUBLISHED_GROWTH = 2.0

SLACK = 1.4
"""The batches that a width takes to its target, over the batches of a straight way. At 1 bit, up to
2.1 was seen."""

FASTEST = 0.064
"""The bits that a width may move in one batch: about 16 entries of the table of steps."""

_WARMUP_SHARE = 0.02


class TrainingPlan(NamedTuple):
    """The constants of one run, all numbers, so that they fit in a variable.

    Attributes:
        batches: the batches of the run.
        learning_rate: the full learning rate. If the optimizer has a schedule, the mean until the
            deadline (planned), or the largest (published).
        warmup: the batches before the penalty starts.
        recovery: the batches over which the learning rate falls to 0 once all targets are met; 0
            for the published factor per batch, infinite for a rate that does not fall.
        temperature_growth: the growth of the temperature per batch.
        log_step_multiplier: how many times faster than other variables the learned logarithms
            move, a power of two.
        deadline: the batches after which all widths are at their targets; 0 for no deadline.
    """

    batches: float
    learning_rate: float
    warmup: float
    recovery: float
    temperature_growth: float
    log_step_multiplier: float
    deadline: float

    @classmethod
    def of(cls, variable: Any) -> TrainingPlan:
        """The plan whose fields a vector holds.

        >>> TrainingPlan.of([900, 0.5, 50, 0, 1, 8, 400]).log_step_multiplier
        8.0
        """
        return cls(*map(float, ops.convert_to_numpy(variable)))

    def annealing(self) -> TemperatureAnnealing:
        """The published schedule with these constants."""
        return TemperatureAnnealing(
            self.learning_rate,
            warmup=int(self.warmup),
            anneal=1.0 if self.recovery else PUBLISHED_ANNEAL,
            rate=self.temperature_growth / self.learning_rate,
        )

    def learning_rate_at(self, state: AnnealingState) -> float:
        """The learning rate for the next batch.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> [plan.learning_rate_at(AnnealingState(600 + c, c)) for c in (0, 200, 400)]
        [0.001, 0.0005, 0.0]
        """
        rate = self.annealing().learning_rate_at(state)
        if not self.recovery:
            return rate
        return rate * Cosine(1.0, 0.0, self.recovery)(state.converged_batches)

    def change_since(self, progress: Progress, rate: float) -> float:
        """A learning rate over the one that this plan had for the last batch of the progress.

        It is 1 if nobody has set another rate since then. The last batch may have been one more or
        one less for which all targets were met.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> [plan.change_since(Progress(batches=500), rate) for rate in (np.float32(1e-3), 5e-4)]
        [1.0, 0.5]
        """
        batches, met = progress.batches - 1, progress.converged_batches
        counts = [met, met - 1] if met else [met]
        last = [self.learning_rate_at(AnnealingState(batches, count)) for count in counts]
        if any(np.float32(rate) == np.float32(each) for each in last):
            return 1.0
        return rate / (last[-1] or self.learning_rate)

    def has_left(self, progress: Progress, rate: float, steps: int) -> bool:
        """Whether a learning rate is what a run left that was interrupted at this progress.

        Args:
            progress: how far the run came.
            rate: the learning rate of the optimizer.
            steps: the steps that the optimizer has taken. After `compile` it has taken none.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> [plan.has_left(Progress(batches=500), rate, 500) for rate in (1e-3, 5e-4)]
        [True, False]
        """
        interrupted = progress.batches > 0 and steps > 0 and not progress.finished
        return interrupted and self.change_since(progress, rate) == 1.0

    def late(self, batches: int) -> float:
        """The share of its way, from start to target, that a width may still have before it.

        It falls evenly from 1 at the end of the warm-up to 0 at the deadline. Without a deadline it
        stays 1.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> plan.late(0), plan.late(310), plan.late(600)
        (1.0, 0.5, 0.0)
        """
        if not self.deadline:
            return 1.0
        done = (batches - self.warmup) / max(self.deadline - self.warmup, 1.0)
        return min(max(1.0 - done, 0.0), 1.0)

    def recovering_for(self, batches: int) -> TrainingPlan:
        """A copy with another number of batches from arrival to the end, if the rate falls to 0.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> plan.recovering_for(500).recovery, plan.annealed(None).recovering_for(500).recovery
        (500.0, inf)
        """
        falls_to_0 = 0.0 < self.recovery < math.inf
        return self._replace(recovery=float(max(batches, 1))) if falls_to_0 else self

    def annealed(self, anneal: str | None) -> TrainingPlan:
        """A copy whose learning rate falls in another way once all targets are met.

        Args:
            anneal: "cosine" to 0 at the end of the run, "exponential" by the published factor per
                batch, or `None` for a constant rate.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6).annealed(None)
        >>> plan.learning_rate_at(AnnealingState(900, 300))
        0.001
        """
        left = self.batches - (self.deadline or self.warmup)
        recovery = {"cosine": max(left, 1.0), "exponential": 0.0, None: math.inf}[anneal]
        return self._replace(recovery=recovery)


class Progress(NamedTuple):
    """The progress of a run, all numbers, so that they fit in a variable.

    Attributes:
        batches: the batches done so far.
        converged_batches: the batches after warm-up for which all targets were met.
        converged: whether all targets were met at the last check.
        finished: whether the run has ended.
    """

    batches: int = 0
    converged_batches: int = 0
    converged: bool = False
    finished: bool = False

    @classmethod
    def of(cls, variable: Any) -> Progress:
        """The progress whose fields a vector holds.

        >>> Progress.of([8, 2, 1, 0])
        Progress(batches=8, converged_batches=2, converged=True, finished=False)
        """
        batches, converged_batches, *flags = map(int, ops.convert_to_numpy(variable))
        return cls(batches, converged_batches, *map(bool, flags))

    @property
    def annealing(self) -> AnnealingState:
        """The two counters, for the schedule."""
        return AnnealingState(self.batches, self.converged_batches)


def published_plan(learning_rates: npt.NDArray[np.floating], distance: float) -> TrainingPlan:
    """The plan with the published constants, for a run of any length.

    Args:
        learning_rates: the learning rate of every batch.
        distance: the bits between the widest start and its target.

    Raises:
        ValueError: the run is too short to reach the targets, or its learning rate is 0.

    >>> published_plan(np.full(9000, 1e-3), distance=8.0).temperature_growth
    0.002
    """
    learning_rate = _positive(np.max(learning_rates))
    needed = PUBLISHED_WARMUP + math.ceil(distance / learning_rate)
    _check_length(len(learning_rates), needed, distance, 'or use the recipe "planned"')
    return TrainingPlan(
        batches=len(learning_rates),
        learning_rate=learning_rate,
        warmup=PUBLISHED_WARMUP,
        recovery=0.0,
        temperature_growth=PUBLISHED_GROWTH * learning_rate,
        log_step_multiplier=1.0,
        deadline=0.0,
    )


def planned_run(
    learning_rates: npt.NDArray[np.floating],
    distance: float,
    arrive_by: float,
    adaptive: bool = True,
) -> TrainingPlan:
    """A plan that meets all targets in time: the published dynamics, faster by a power of two.

    With the batches `a = arrive_by * batches - warmup` and their mean learning rate `lr`:
    `log_step_multiplier = 2**ceil(log2(1.4 * distance / (lr * a)))`, at least 1, and
    `temperature_growth = 2 * log_step_multiplier * lr`.
    From arrival to the end, the learning rate falls to 0 along half a cosine.

    Args:
        learning_rates: the learning rate of every batch.
        distance: the bits between the widest start and its target.
        arrive_by: the share of the run after which all targets are met.
        adaptive: whether the length of the optimizer's steps is its learning rate for any gradient,
            as for Adam. If not, the multiplier stays 1, and late widths are narrowed by hand.

    Raises:
        ValueError: the run is too short to reach the targets at 0.064 bits per batch, or its
            learning rate is 0.

    >>> planned_run(np.full(2800, 1e-3), distance=8.0, arrive_by=0.6).log_step_multiplier
    8.0
    """
    batches = len(learning_rates)
    warmup = min(PUBLISHED_WARMUP, int(_WARMUP_SHARE * batches))
    deadline = math.ceil(arrive_by * batches)
    way = SLACK * distance / FASTEST
    needed = (way + PUBLISHED_WARMUP) / arrive_by
    if arrive_by > _WARMUP_SHARE:  # shorter runs have a shorter warm-up
        needed = min(needed, way / (arrive_by - _WARMUP_SHARE))
    _check_length(batches, math.ceil(needed), distance, "or start at fewer bits")
    learning_rate = _positive(np.mean(learning_rates[warmup:deadline]))
    wanted = SLACK * distance / (learning_rate * (deadline - warmup))
    multiplier = 2.0 ** max(0, math.ceil(math.log2(max(wanted, 1e-9)))) if adaptive else 1.0
    return TrainingPlan(
        batches=batches,
        learning_rate=learning_rate,
        warmup=warmup,
        recovery=batches - deadline,
        temperature_growth=PUBLISHED_GROWTH * multiplier * learning_rate,
        log_step_multiplier=multiplier,
        deadline=deadline,
    )


def _positive(learning_rate: Any) -> float:
    """The learning rate by which widths are to move."""
    if not 0.0 < learning_rate < math.inf:
        raise ValueError(
            "GDNSQSchedule plans how fast bit widths move, by a learning rate above 0 until they "
            f"are to arrive. Received: {float(learning_rate)!r}. Compile the model with a learning "
            "rate, or a schedule, that is above 0 there."
        )
    return float(learning_rate)


def _check_length(batches: int, needed: int, distance: float, way_out: str) -> None:
    if batches < needed:
        raise ValueError(
            f"This run of {batches} batches is too short to learn the bit widths: the widest one "
            f"starts {distance:.1f} bits above its target, which needs at least {needed} batches. "
            f"Train for more epochs, {way_out}."
        )
