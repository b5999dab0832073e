"""Schedules: pure functions from a step to a value, as frozen dataclasses.

Here, a step is a number of training batches. A callback reads it from `optimizer.iterations`, so a
resumed run continues where it was. Before step 0 and after the last step, the end values hold.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Base of all schedules: `schedule(step) -> float`."""

    def __call__(self, step: float) -> float:
        raise NotImplementedError(f"{type(self).__name__} must implement __call__(step)")

    def get_config(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """One value: `f(k) = value`.

    >>> Constant(0.5)(1000)
    0.5
    """

    value: float

    def __call__(self, step: float) -> float:
        return float(self.value)


@dataclasses.dataclass(frozen=True)
class _Ramp(Schedule):
    """From `start` to `end` in `steps` steps: `f(k) = start + (end - start) * shape(k / steps)`.

    `shape` rises from 0 to 1. With `steps = 0`, `f(k) = end`.
    """

    start: float
    end: float
    steps: float

    def __post_init__(self) -> None:
        if not self.steps >= 0:
            raise ValueError(f"steps must be 0 or more. Received: steps={self.steps!r}")

    def __call__(self, step: float) -> float:
        progress = min(max(step / self.steps, 0.0), 1.0) if self.steps else 1.0
        if progress == 1.0:
            return float(self.end)
        return self.start + (self.end - self.start) * self._shape(progress)

    def _shape(self, progress: float) -> float:
        raise NotImplementedError(f"{type(self).__name__} must implement _shape(progress)")


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class Linear(_Ramp):
    """A straight line: `f(k) = start + (end - start) * k / steps`.

    >>> [Linear(8.0, 2.0, steps=100)(step) for step in (0, 50, 100, 900)]
    [8.0, 5.0, 2.0, 2.0]
    """

    def _shape(self, progress: float) -> float:
        return progress


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class Cosine(_Ramp):
    """Half a cosine, flat at both ends: `shape(p) = (1 - cos(pi * p)) / 2`.

    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983), without restarts.

    >>> [round(Cosine(1.0, 0.0, steps=100)(step), 3) for step in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """

    def _shape(self, progress: float) -> float:
        return (1.0 - math.cos(math.pi * progress)) / 2.0


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class Logarithmic(_Ramp):
    """Fast at first, then slower: `shape(p) = log(1 + kappa * p) / log(1 + kappa)`.

    Source: arXiv 2509.00097 names this form for its curriculum. The formula is our own.

    >>> [round(Logarithmic(0.0, 1.0, steps=9)(step), 3) for step in (0, 1, 9)]
    [0.0, 0.301, 1.0]
    """

    kappa: float = 9.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kappa > 0:
            raise ValueError(f"kappa must be positive. Received: kappa={self.kappa!r}")

    def _shape(self, progress: float) -> float:
        return math.log1p(self.kappa * progress) / math.log1p(self.kappa)


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class Exponential(_Ramp):
    """Slow at first, then faster: `shape(p) = ((1 + kappa)**p - 1) / kappa`.

    The mirror image of `Logarithmic`.

    >>> [round(Exponential(0.0, 1.0, steps=10)(step), 3) for step in (0, 5, 10)]
    [0.0, 0.24, 1.0]
    """

    kappa: float = 9.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kappa > 0:
            raise ValueError(f"kappa must be positive. Received: kappa={self.kappa!r}")

    def _shape(self, progress: float) -> float:
        return math.expm1(math.log1p(self.kappa) * progress) / self.kappa


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """One piece after another: `f(k) = pieces[i](k - b[i])` for `b[i] <= k < b[i + 1]`.

    `b` holds 0 and the boundaries. A piece is a number, or a schedule that counts steps from the
    start of the piece.

    >>> piecewise = Piecewise(boundaries=(10, 30), pieces=(0.0, Linear(0.0, 1.0, steps=20), 0.1))
    >>> [piecewise(step) for step in (0, 9, 10, 20, 30)]
    [0.0, 0.0, 0.0, 0.5, 0.1]
    """

    boundaries: tuple[float, ...]
    pieces: tuple[Schedule | float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "pieces", tuple(self.pieces))
        starts = (0, *self.boundaries)
        if any(start >= end for start, end in itertools.pairwise(starts)):
            raise ValueError(
                f"boundaries must be positive and increasing. Received: {self.boundaries!r}"
            )
        if len(self.pieces) != len(starts):
            raise ValueError(
                f"pieces must have one element more than boundaries: {len(starts)}. "
                f"Received: {len(self.pieces)} pieces"
            )

    def __call__(self, step: float) -> float:
        index = bisect.bisect_right(self.boundaries, step)
        piece = self.pieces[index]
        if not callable(piece):
            return float(piece)
        return piece(step - (self.boundaries[index - 1] if index else 0))

    def get_config(self) -> dict[str, Any]:
        pieces = [keras.saving.serialize_keras_object(piece) for piece in self.pieces]
        return {"boundaries": list(self.boundaries), "pieces": pieces}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Piecewise:
        pieces = [keras.saving.deserialize_keras_object(piece) for piece in config["pieces"]]
        return cls(config["boundaries"], tuple(pieces))


@dataclasses.dataclass(frozen=True)
class AnnealingState:
    """The state of a `TemperatureAnnealing`: two counters, so a resumed run continues exactly.

    Args:
        batches: number of finished batches.
        converged_batches: number of finished batches after warm-up with the model converged.
    """

    batches: float = 0
    converged_batches: int = 0


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True)
class TemperatureAnnealing(Schedule):
    """GDNSQ's joint schedule of the learning rate and the weight `t` of the bit-width penalty.

    After `n` batches, with the model converged in `c` of the batches after warm-up:

        n <= warmup:  lr = lr0 * n / warmup                            t = 0
        n >  warmup:  lr = lr0 * anneal**c * decay**(n - warmup - c)   t = rate * lr0 * (n - warmup)

    The first batch has a learning rate of 0 (unless `warmup` is 0), as published. Called as a
    `Schedule`, it returns the learning rate of a run that never converges.

    Args:
        learning_rate: `lr0`, the full learning rate.
        warmup: number of batches over which the learning rate rises.
        anneal: factor per batch while the model is converged.
        decay: factor per batch while the model is not converged.
        rate: growth of `t` per batch, in units of `lr0`.

    Source: GDNSQ (arXiv 2508.14004), its published code and defaults.

    >>> schedule = TemperatureAnnealing(0.5, warmup=2)
    >>> state = AnnealingState()
    >>> for _ in range(3):
    ...     state = schedule.advance(state, converged=False)
    >>> schedule.learning_rate_at(state), schedule.temperature_at(state)
    (0.5, 1.0)
    """

    learning_rate: float
    warmup: int = 50
    anneal: float = 0.9985
    decay: float = 1.0
    rate: float = 2.0

    def __post_init__(self) -> None:
        if not self.warmup >= 0:
            raise ValueError(f"warmup must be 0 batches or more. Received: {self.warmup!r}")

    def __call__(self, step: float) -> float:
        return self.learning_rate_at(AnnealingState(batches=step))

    def advance(self, state: AnnealingState, converged: bool) -> AnnealingState:
        """The state one batch later. `converged` describes the model at the end of that batch."""
        batches = state.batches + 1
        counts = bool(converged) and batches > self.warmup
        return AnnealingState(batches, state.converged_batches + counts)

    def learning_rate_at(self, state: AnnealingState) -> float:
        """The learning rate for the batch that follows."""
        past_warmup = state.batches - self.warmup
        if past_warmup < 0:
            return self.learning_rate * state.batches / self.warmup
        annealed = self.anneal**state.converged_batches
        others: float = self.decay ** (past_warmup - state.converged_batches)
        return self.learning_rate * annealed * others

    def temperature_at(self, state: AnnealingState) -> float:
        """The weight `t` of the penalty for the batch that follows."""
        past_warmup = max(0, state.batches - self.warmup)
        return self.rate * self.learning_rate * past_warmup
