"""Targets that exporters register, and whether they can hold a network.

An exporter names its targets in the entry points `keras_qat.targets` of its package. Each loads
`check(graph, target)`, which raises a `ValueError` for an `IntegerGraph` that does not fit.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from keras_qat.integer import IntegerGraph

GROUP = "keras_qat.targets"

NATIVE_GRIDS = {"ethos-u": {"sigmoid": 2.0**-8, "tanh": 2.0**-7}}
"""The scales of 8-bit grids on which a target runs functions, where it runs them on no other grid.

By target and by the name of the function. On other grids a function is a table, which every target
reads, and the CPU beside an Ethos-U NPU.
"""


def known_targets() -> list[str]:
    """The names of all targets of the installed exporters.

    >>> known_targets()
    ['ethos-u', 'litert', 'tflm']
    """
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


def checked_target(target: Any) -> str | None:
    """The name of a target, or `None` for none.

    Raises:
        ValueError: no such target.
    """
    known = known_targets()
    if target is None or (isinstance(target, str) and target in known):
        return target
    raise ValueError(f"The target must be None or one of {known}. Received: {target!r}")


def problem_on(graph: IntegerGraph, target: str) -> str:
    """Why a target cannot hold a network, in words; empty if it can."""
    (check, *_) = importlib.metadata.entry_points(group=GROUP, name=target)
    try:
        check.load()(graph, target)
    except ValueError as error:
        return str(error)
    return ""
