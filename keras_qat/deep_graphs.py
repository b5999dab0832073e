"""Room for Keras to walk deep graphs, which it does one call inside another."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_DEEPEST = 60_000
"""Keras takes one call for a layer, and some more around; `quantize` makes three layers of one."""


@contextlib.contextmanager
def room_for_depth() -> Iterator[None]:
    """A context in which a model may be built with thousands of layers in a row.

    Python keeps calls of Python code off the native stack, so that a high limit costs no more than
    memory. Afterwards the limit is what it was.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
