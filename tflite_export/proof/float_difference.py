"""How two versions of a float32 tensor differ: in size, as no two of them need be equal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT_TOLERANCE = 2.0**-12
"""The largest difference of two runs of one float32 network, as a share of its largest value.

A float32 number has 24 bits. A sum of n products in another order differs by about `2**-24 *
sqrt(n / 2)` of its size, some 5 bits for the thousands of products in a wide convolution. Layers
behind it may enlarge that, and as many bits again are left to them. What differs by more is
another network. On x86-64, ResNet-8 and ResNet-20 differed by less than `2**-18`.
"""


@dataclasses.dataclass(frozen=True)
class FloatDifference:
    """How two versions of one float32 tensor differ.

    Attributes:
        name: the tensor.
        elements: elements compared.
        largest: largest absolute difference; infinity if shapes or dtypes differ, or for NaN.
        mean: mean absolute difference.
        largest_value: largest absolute value of the version that is expected.
    """

    name: str
    elements: int
    largest: float
    mean: float
    largest_value: float

    @property
    def relative(self) -> float:
        """The largest difference over the largest value."""
        return _share(self.largest, self.largest_value)

    @property
    def mean_relative(self) -> float:
        """The mean difference over the largest value."""
        return _share(self.mean, self.largest_value)

    def from_(self, other: str) -> str:
        """The difference from `other` as text.

        >>> FloatDifference("y", 8, 0.25, 0.1, 4.0).from_("the model")
        "float32 tensor 'y' differs from the model by at most 0.25, with values up to 4"
        """
        return (
            f"float32 tensor {self.name!r} differs from {other} by at most {self.largest:.2g}, "
            f"with values up to {self.largest_value:.3g}"
        )


def float_difference(
    name: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]
) -> FloatDifference:
    """Compares two arrays. If shape or dtype differ, or one holds NaN, they are infinitely far.

    >>> found = float_difference("y", np.float32([1.0, 3.0]), np.float32([1.0, 4.0]))
    >>> found.largest, found.mean, found.relative
    (1.0, 0.5, 0.25)
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return FloatDifference(name, expected.size, math.inf, math.inf, 0.0)
    equal = actual == expected  # also infinities, whose difference is NaN
    with np.errstate(invalid="ignore"):
        difference = np.where(equal, 0.0, np.abs(actual.astype(np.float64) - expected))
    difference = np.where(np.isnan(difference), np.inf, difference)
    value = float(np.max(np.abs(expected), initial=0.0))
    mean = float(np.mean(difference)) if difference.size else 0.0
    return FloatDifference(name, expected.size, float(np.max(difference, initial=0.0)), mean, value)


def merge_floats(chunks: Sequence[Iterable[FloatDifference]]) -> tuple[FloatDifference, ...]:
    """One entry per tensor over all chunks of examples."""
    return tuple(_merged(parts) for parts in zip(*chunks, strict=True))


def _merged(parts: Sequence[FloatDifference]) -> FloatDifference:
    elements = sum(part.elements for part in parts)
    total = sum(part.mean * part.elements for part in parts)
    return FloatDifference(
        parts[0].name,
        elements,
        max(part.largest for part in parts),
        total / max(elements, 1),
        max(part.largest_value for part in parts),
    )


def _share(difference: float, value: float) -> float:
    if difference == 0.0:
        return 0.0
    return difference / value if value > 0.0 else math.inf
