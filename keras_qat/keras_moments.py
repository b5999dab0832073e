"""Knows the private method with which BatchNormalization computes the statistics of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def captured_moments(layers: Sequence[Any]) -> Iterator[list[list[tuple[Any, Any]]]]:
    """A context that collects, for each BatchNormalization, the moments of its training calls.

    Keras has no public name for the method that computes them.
    """
    found: list[list[tuple[Any, Any]]] = [[] for _ in layers]

    def recording(method: Any, calls: list[tuple[Any, Any]]) -> Any:
        def moments(*args: Any, **kwargs: Any) -> Any:
            calls.append(method(*args, **kwargs))
            return calls[-1]

        return moments

    for layer, calls in zip(layers, found, strict=True):
        object.__setattr__(layer, "_moments", recording(layer._moments, calls))
    try:
        yield found
    finally:
        for layer in layers:
            object.__delattr__(layer, "_moments")


def moments_captured(layer: Any) -> bool:
    """Whether the layer is called inside `captured_moments`."""
    return "_moments" in vars(layer)
