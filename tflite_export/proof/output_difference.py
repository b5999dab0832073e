"""How far each output is from the trained model's: answers kept, errors in steps, SQNR."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerTensor
from tflite_export.proof.output_kinds import VALUES, OutputKind

Array = npt.NDArray[Any]

_MOST_STEPS = 256


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far an output is from the trained model's output.

    Attributes:
        name: the output.
        kind: `"scores"`, `"values"`, or `None` if nothing says which.
        threshold: the threshold of scores that decide one by one; `None` if the largest decides.
        positions: the number of answers: examples, pixels or boxes; each number with a threshold.
        agreement: the share of positions that keep their answer; `None` for values.
        mean_steps: mean absolute difference, in steps of the output's grid.
        high_steps: 99.9th percentile of the absolute differences, in steps.
        max_steps: largest absolute difference, in steps.
        levels: number of levels of the grid; 0 for an output on no grid, which has no steps.
        sqnr: signal over error in decibels; `None` if no element differs, or for indices.
    """

    name: str
    kind: str | None
    threshold: float | None
    positions: int
    agreement: float | None
    mean_steps: float
    high_steps: float
    max_steps: float
    levels: int
    sqnr: float | None

    @property
    def share_of_range(self) -> float:
        """The mean difference over the number of levels."""
        return self.mean_steps / max(self.levels, 1)

    def render(self) -> str:
        """The difference as a line of the report."""
        parts = [f"Output {self.name!r} ({self.kind or 'of unknown kind'})"]
        if self.agreement is not None:
            how = "largest" if self.threshold is None else f"side of {self.threshold:g}"
            parts.append(f"{self.agreement:.2%} of {self.positions:,} answers kept ({how})")
        if self.levels and self.max_steps:
            parts.append(
                f"error of {self.mean_steps:.2f} steps on average, {self.high_steps:g} at the "
                f"99.9th percentile, at most {self.max_steps:g}, of {self.levels} levels"
            )
        if self.sqnr is not None:
            parts.append(f"SQNR {self.sqnr:.1f} dB")
        elif self.agreement in (None, 1.0):
            parts.append("no difference")
        return f"{parts[0]}: {'; '.join(parts[1:])}."


class OutputTally:
    """Adds up the differences of one output, chunk by chunk."""

    def __init__(self, tensor: IntegerTensor, kind: OutputKind):
        self._tensor = tensor
        self._kind = kind
        self._steps = np.zeros(_MOST_STEPS, np.int64)
        self._answers = self._same = 0
        self._signal = self._error = 0.0

    def add(self, actual: Array, expected: Array) -> None:
        """Adds a chunk of examples: integers, or floats of an output on no grid."""
        if self._tensor.on_grid:
            apart = np.abs(actual.astype(np.int64) - expected.astype(np.int64))
            self._steps += np.bincount(apart.reshape(-1), minlength=_MOST_STEPS)
            actual, expected = (self._tensor.dequantize(each) for each in (actual, expected))
        if self._tensor.dtype == "int32":  # indices are answers themselves
            self._count(actual == expected)
            return
        actual, expected = actual.astype(np.float64), expected.astype(np.float64)
        self._signal += float(np.sum(np.square(expected)))
        self._error += float(np.sum(np.square(actual - expected)))
        if self._kind.kind == VALUES:
            return
        if self._kind.threshold is None:
            self._count(actual.argmax(axis=-1) == expected.argmax(axis=-1))
        else:
            self._count((actual > self._kind.threshold) == (expected > self._kind.threshold))

    def _count(self, same: Array) -> None:
        self._answers += same.size
        self._same += int(np.count_nonzero(same))

    def result(self) -> OutputDifference:
        """The difference over all chunks."""
        tensor, elements = self._tensor, int(self._steps.sum())
        seen = np.flatnonzero(self._steps)
        total = float(np.arange(_MOST_STEPS) @ self._steps)
        enough = np.searchsorted(np.cumsum(self._steps), math.ceil(0.999 * elements))
        return OutputDifference(
            tensor.name,
            self._kind.kind,
            self._kind.threshold,
            self._answers,
            self._same / self._answers if self._answers else None,
            total / max(elements, 1),
            float(enough) if elements else 0.0,
            float(seen[-1]) if seen.size else 0.0,
            tensor.qparams.levels if tensor.on_grid else 0,
            decibels(self._signal, self._error),
        )


def decibels(signal: float, error: float) -> float | None:
    """`10 * log10(signal / error)`; `None` without an error.

    >>> decibels(100.0, 1.0)
    20.0
    """
    if error == 0.0:
        return None
    return 10.0 * math.log10(signal / error) if signal > 0.0 else 0.0
