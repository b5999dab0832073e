"""Rankings of tensors by their channels, from the history of a `CapacityMonitor`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

History = Mapping[str, Any]
Score = Callable[[Mapping[str, Any]], float | None]
"""The score of a tensor; `None` if the ranking leaves it out."""


def bottlenecks(history: History, n: int = 3, by: str = "bits_per_value") -> list[str]:
    """The first tensors of a ranking.

    Args:
        history: the history of a `CapacityMonitor`, whose `bottlenecks` explains the rankings.
        n: the largest number of tensors to return.
        by: the ranking, a key of `RANKINGS`.

    Raises:
        ValueError: no such ranking, an `n` below 1, a history without epochs, or without what the
            ranking needs.

    >>> tensors = {"a/weights": {"bits_per_value": [4.0]}, "b/weights": {"bits_per_value": [1.0]}}
    >>> bottlenecks({"epochs": [0], "tensors": tensors}, n=1)
    ['b/weights']
    """
    if by not in RANKINGS:
        raise ValueError(f"The ranking 'by' must be one of {tuple(RANKINGS)}. Received: {by!r}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"The number of bottlenecks must be 1 or more. Received: {n!r}")
    scores = ranking_scores(history, by)
    return sorted(scores, key=lambda name: -scores[name])[:n]


def ranking_scores(history: History, by: str) -> dict[str, float]:
    """The score of every tensor that a ranking ranks; the largest comes first.

    A tensor whose number is unknown, as in a run that diverged, comes before all others.

    Raises:
        ValueError: a history without epochs, or without what the ranking needs.
    """
    if not history["epochs"]:
        raise ValueError("The capacity history has no epoch yet: fit with the monitor first.")
    score, needs = RANKINGS[by]
    scores = {name: score(tensor) for name, tensor in history["tensors"].items()}
    ranked = {name: found for name, found in scores.items() if found is not None}
    if needs and not ranked:
        raise ValueError(f"The ranking {by!r} {needs}")
    return ranked


def _last(key: str, sign: float) -> Score:
    """`sign` times the last number; infinity if it is unknown."""

    def score(tensor: Mapping[str, Any]) -> float | None:
        if key not in tensor:
            return None
        value = tensor[key][-1]
        return math.inf if value is None else sign * value

    return score


def area_above_target(tensor: Mapping[str, Any]) -> float | None:
    """`sum(max(mean_bits - target, 0))` over epochs, in bits times epochs.

    `None` if the width is not learned, infinity if one of its numbers is unknown.

    >>> area_above_target({"learned": True, "target_bits": 2, "mean_bits": [7.0, 3.5, 2.0]})
    6.5
    """
    if not tensor["learned"]:
        return None
    if None in tensor["mean_bits"]:
        return math.inf
    return math.fsum(max(bits - tensor["target_bits"], 0.0) for bits in tensor["mean_bits"])


RANKINGS: dict[str, tuple[Score, str]] = {
    "bits_per_value": (_last("bits_per_value", -1.0), ""),
    "bits_per_example": (_last("bits_per_example", -1.0), ""),
    "area_above_target": (
        area_above_target,
        "needs bit widths that are learned, as GDNSQConfig has them. This model has none: rank "
        "with by='bits_per_value' instead.",
    ),
    "step_sensitivity": (
        _last("step_sensitivity", 1.0),
        "needs labels: record it with CapacityMonitor(x, labels=y).",
    ),
}
"""Every ranking: the score of a tensor, and what a history without ranked tensors lacks."""
