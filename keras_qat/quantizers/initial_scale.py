"""Starting scales from data: from the range for inputs, by least squared error otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.quantizers.grid import Grid

_CANDIDATES = np.linspace(0.02, 1.0, 99)
_CACHED_WEIGHTS = 1 << 14  # weights searched at once: larger arrays leave the processor's cache

LARGEST_VALUE = 2.0**60
"""The largest value that `quantize` takes. Products of values and weights up to it do not overflow
float32."""
_SMALLEST_SCALE = 2.0**-50
"""The product of two such scales, which is the step of a bias, is a normal float32 number."""

Array = npt.NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """How often a tensor took each value: bin centers, counts, and the exact range."""

    centers: Array
    counts: Array
    low: float
    high: float

    @classmethod
    def union(cls, histograms: Sequence[Histogram]) -> Histogram:
        """The histogram of the values of several tensors together.

        >>> tens = Histogram(np.array([10.0]), np.array([3]), 10.0, 10.0)
        >>> Histogram.union([tens, Histogram(np.array([-2.0]), np.array([1]), -2.0, -2.0)]).low
        -2.0
        """
        return cls(
            np.concatenate([histogram.centers for histogram in histograms]),
            np.concatenate([histogram.counts for histogram in histograms]),
            min(histogram.low for histogram in histograms),
            max(histogram.high for histogram in histograms),
        )


def range_scale(histogram: Histogram, grid: Grid) -> np.float32:
    """The smallest scale that clips nothing.

    >>> float(range_scale(Histogram(None, None, 0.0, 255.0), Grid(0, 255)))
    1.0
    """
    return np.float32(_full_range(np.array([histogram.low, histogram.high]), grid))


def least_error_scale(histogram: Histogram, grid: Grid) -> np.float32:
    """The scale with the least mean squared error over the histogram.

    The search tries 99 fractions, 2 % to 100 %, of the smallest scale that clips nothing.
    """
    full = _full_range(np.array([histogram.low, histogram.high]), grid)
    scales = full * _CANDIDATES
    centers = histogram.centers[:, None]
    errors = (_nearest(centers / scales, grid) * scales - centers) ** 2
    return np.float32(scales[np.argmin(histogram.counts @ errors)])


def least_error_weight_scale(kernel: Array, grid: Grid, per_channel: bool) -> Array:
    """The scale with the least squared error over the weights themselves.

    It is one scale for each channel of the last axis, or one for the kernel. The search is the
    search of `least_error_scale`.

    Raises:
        ValueError: weights that are NaN or infinite.

    >>> least_error_weight_scale(np.array([[0.5], [-0.5]]), Grid(-1, 1, step=2), True).tolist()
    [0.5]
    """
    if not np.all(np.isfinite(kernel)):
        raise ValueError("The weights hold NaN or infinity.")
    channels = np.moveaxis(kernel, -1, 0) if per_channel else kernel[np.newaxis]
    channels = channels.reshape(len(channels), -1)
    together = max(1, _CACHED_WEIGHTS // channels.shape[1])
    parts = [
        _least_error_of_rows(channels[start : start + together], grid)
        for start in range(0, len(channels), together)
    ]
    scales = np.concatenate(parts).astype(np.float32)
    return scales if per_channel else scales[0]


def _least_error_of_rows(rows: Array, grid: Grid) -> Array:
    """One scale for each row."""
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    full = np.array([_full_range(row, grid) for row in rows])[:, np.newaxis]
    best, least = full, np.full(full.shape, np.inf)
    for scale in (full * fraction for fraction in _CANDIDATES):
        error = _nearest(rows / scale, grid)
        error *= scale
        error -= rows
        error *= error
        total = error.sum(axis=1, keepdims=True)
        best, least = np.where(total < least, scale, best), np.minimum(total, least)
    return best[:, 0]


def _full_range(values: Array, grid: Grid) -> float:
    """The smallest scale whose grid reaches all values; 1 where all values are zero.

    It is at least `_SMALLEST_SCALE`, at which far smaller values are rounded to zero.
    """
    high = max(float(np.max(values)), 0.0)
    low = min(float(np.min(values)), 0.0)
    reach = [high / grid.qmax] if grid.qmax > 0 else []
    reach += [low / grid.qmin] if grid.qmin < 0 else []
    found = max(reach, default=0.0)
    return max(found, _SMALLEST_SCALE) if found > 0.0 else 1.0


def _nearest(ratio: Array, grid: Grid) -> Array:
    """The nearest code of each ratio; overwrites `ratio`."""
    np.clip(ratio, grid.qmin, grid.qmax, out=ratio)
    ratio -= grid.qmin
    ratio /= grid.step
    np.rint(ratio, out=ratio)
    ratio *= grid.step
    ratio += grid.qmin
    return ratio
