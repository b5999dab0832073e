"""How a GDNSQ run is laid out over the batches that `fit` will do, and how far it is."""

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
"""Batches until arrival over those of the straight way: up to 2.1 was seen at 1 bit."""

FASTEST = 0.064
"""Bits that a width may move in one batch: 16 entries of the table of steps."""

_WARMUP_SHARE = 0.02


class TrainingPlan(NamedTuple):
    """The constants of one run, all numbers, so that they fit in a variable.

    Attributes:
        batches: that the run has.
        learning_rate: the full one; its mean until arrival if the optimizer has its own schedule.
        warmup: batches before the penalty starts.
        recovery: batches over which the learning rate falls to 0 once all targets are met; 0 for
            the published factor per batch.
        temperature_growth: of the penalty's weight per batch.
        log_step_multiplier: how much faster than other variables the learned logarithms move; a
            power of two.
        deadline: batches after which all widths are at their targets; 0 for never.
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
        """The plan that a vector holds, field by field.

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
        """The learning rate for the batch that follows.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> [plan.learning_rate_at(AnnealingState(600 + c, c)) for c in (0, 200, 400)]
        [0.001, 0.0005, 0.0]
        """
        rate = self.annealing().learning_rate_at(state)
        if not self.recovery:
            return rate
        return rate * Cosine(1.0, 0.0, self.recovery)(state.converged_batches)

    def late(self, batches: int) -> float:
        """How far from its start to its target a width may be after that many batches, 1 to 0.

        It falls evenly from the end of the warm-up to the deadline; without a deadline it stays 1.

        >>> plan = planned_run(np.full(1000, 1e-3), distance=8.0, arrive_by=0.6)
        >>> plan.late(0), plan.late(310), plan.late(600)
        (1.0, 0.5, 0.0)
        """
        if not self.deadline:
            return 1.0
        done = (batches - self.warmup) / max(self.deadline - self.warmup, 1.0)
        return min(max(1.0 - done, 0.0), 1.0)

    def recovering_for(self, batches: int) -> TrainingPlan:
        """The same with another number of batches from arrival to the end."""
        return self._replace(recovery=float(max(batches, 1)))


class Progress(NamedTuple):
    """How far a run is, all numbers, so that they fit in a variable.

    Attributes:
        batches: done so far.
        converged_batches: those of them after warm-up that found all targets met.
        converged: whether all targets were met at the last look.
        finished: whether the run has ended.
    """

    batches: int = 0
    converged_batches: int = 0
    converged: bool = False
    finished: bool = False

    @classmethod
    def of(cls, variable: Any) -> Progress:
        """The progress that a vector holds, field by field.

        >>> Progress.of([8, 2, 1, 0])
        Progress(batches=8, converged_batches=2, converged=True, finished=False)
        """
        batches, converged_batches, *flags = map(int, ops.convert_to_numpy(variable))
        return cls(batches, converged_batches, *map(bool, flags))

    @property
    def annealing(self) -> AnnealingState:
        """The two counters, as the schedule takes them."""
        return AnnealingState(self.batches, self.converged_batches)


def published_plan(learning_rates: npt.NDArray[np.floating], distance: float) -> TrainingPlan:
    """The published constants, for a run of any length.

    Args:
        learning_rates: of every batch.
        distance: bits between the widest start and its target.

    Raises:
        ValueError: the run is too short to get there.

    >>> published_plan(np.full(9000, 1e-3), distance=8.0).temperature_growth
    0.002
    """
    learning_rate = float(np.max(learning_rates))
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
    """A run that arrives in time: the published dynamics, compressed by a power of two.

    With the batches `a = arrive_by * batches - warmup` and their mean learning rate `lr`:
    `log_step_multiplier = 2**ceil(log2(1.4 * distance / (lr * a)))`, at least 1, and
    `temperature_growth = 2 * log_step_multiplier * lr`.
    From arrival to the end the learning rate falls to 0 along half a cosine.

    Args:
        learning_rates: of every batch.
        distance: bits between the widest start and its target.
        arrive_by: share of the run.
        adaptive: whether the optimizer's steps are as long as its learning rate, whatever the
            gradient, like Adam's; else the multiplier stays 1, and late widths are moved along.

    Raises:
        ValueError: the run is too short to get there at 0.064 bits per batch.

    >>> planned_run(np.full(2800, 1e-3), distance=8.0, arrive_by=0.6).log_step_multiplier
    8.0
    """
    batches = len(learning_rates)
    warmup = min(PUBLISHED_WARMUP, int(_WARMUP_SHARE * batches))
    deadline = math.ceil(arrive_by * batches)
    way = SLACK * distance / FASTEST
    needed = (way + PUBLISHED_WARMUP) / arrive_by
    if arrive_by > _WARMUP_SHARE:  # shorter runs warm up for a shorter time
        needed = min(needed, way / (arrive_by - _WARMUP_SHARE))
    _check_length(batches, math.ceil(needed), distance, "or start at fewer bits")
    learning_rate = float(np.mean(learning_rates[warmup:deadline]))
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


def _check_length(batches: int, needed: int, distance: float, way_out: str) -> None:
    if batches < needed:
        raise ValueError(
            f"This run of {batches} batches is too short to learn the bit widths: the widest one "
            f"starts {distance:.1f} bits above its target, which needs at least {needed} batches. "
            f"Train for more epochs, {way_out}."
        )
