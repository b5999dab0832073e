"""Finds values that lose their levels because they share a grid with a larger range."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FEW = 1 / 32
"""A part with a smaller share of the grid's levels is named: under 8 of 256, 5 of 8 bits lost."""
FEW_OF_OUTPUTS = 1 / 64
"""The same share for outputs and joined tensors. How much their parts matter is not known."""
_MATTERS = 0.25
"""A part counts if its range times its gain is at least this share of the largest one."""
_VARIES = 1e-6
_MOST_NAMED = 4


@dataclasses.dataclass(frozen=True, eq=False)
class SharedRange:
    """Columns of a tensor, or several tensors, that are on one grid.

    Attributes:
        what: the tensor, in words.
        part: what a part is called, such as `"column"`.
        names: the name of every part.
        low: the least value of every part.
        high: the largest value of every part.
        gains: the factor that every part is multiplied by behind the grid, which says how much the
            part matters; `None` where all parts matter alike.
        bits: bit width of the grid.
        scale: scale of the grid; `None` for the smallest one that holds all parts.
        few: a part with a smaller share of the grid's levels is named.
        beside_others: whether parts are named only if another part has enough levels.
    """

    what: str
    part: str
    names: list[str]
    low: Array
    high: Array
    gains: Array | None
    bits: int
    scale: float | None = None
    few: float = FEW
    beside_others: bool = True

    @property
    def step(self) -> float:
        """The scale of the grid, or the smallest scale that holds all parts."""
        if self.scale is not None:
            return self.scale
        low, high = float(np.min(self.low)), float(np.max(self.high))
        span = 2.0 * max(-low, high) if low < 0.0 else high
        step: float = span / (2**self.bits - 1)
        return step

    def starved(self) -> dict[str, float]:
        """The number of levels of every part that matters and has few."""
        spans = np.asarray(self.high - self.low, np.float64)
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        varies = spans > _VARIES * largest
        if not self.step > 0.0 or not varies.any():
            return {}
        gains = 1.0 / np.where(varies, spans, 1.0) if self.gains is None else self.gains
        worth = np.where(varies, spans * np.abs(gains), 0.0)
        levels = spans / self.step
        enough = levels >= self.few * 2**self.bits
        if self.beside_others and not enough.any():
            return {}
        few = varies & (worth >= _MATTERS * worth.max()) & ~enough
        return {self.names[index]: float(levels[index]) for index in np.flatnonzero(few)}

    def warning(self) -> str:
        """A warning that names the tensor, ranges and levels; empty if no part is starved.

        >>> shared = SharedRange("Input 'x'", "column", ["0", "1"], np.array([-1.0, -1e4]),
        ...                      np.array([1.0, 1e4]), None, 8)
        >>> shared.warning().split(":")[0]
        "Input 'x' has one grid of 8 bits for values from -1e+04 to 1e+04"
        """
        starved = self.starved()
        if not starved:
            return ""
        order = sorted(starved, key=starved.__getitem__)
        places = {name: index for index, name in enumerate(self.names)}
        named = ", ".join(
            f"{self.part} {name} ({self.low[places[name]]:.3g} to {self.high[places[name]]:.3g}) "
            f"has {starved[name]:.2g}"
            for name in order[:_MOST_NAMED]
        )
        more = f", and {len(order) - _MOST_NAMED} more" if len(order) > _MOST_NAMED else ""
        return (
            f"{self.what} has one grid of {self.bits} bits for values from {np.min(self.low):.3g} "
            f"to {np.max(self.high):.3g}: of its {2**self.bits} levels {named}{more}. Differences "
            "smaller than a step are lost."
        )
