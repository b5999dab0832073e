"""The discretization error as a term of the training loss, collected from the quantizers of a call.

Source: PEGE (arXiv 2509.00097) optimizes the task loss and the discretization error together. The
formula is our own reading.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from keras import ops

from keras_qat.tensors import Tensor

_HERE = threading.local()


@contextlib.contextmanager
def collecting() -> Iterator[list[Tensor]]:
    """A context that yields the list of all terms of the quantizers that are called in it."""
    before = getattr(_HERE, "terms", None)
    _HERE.terms = []
    try:
        yield _HERE.terms
    finally:
        _HERE.terms = before


def collect(term: Tensor) -> None:
    """Adds a scalar to the terms of the innermost `collecting`; without one it is dropped."""
    if (terms := getattr(_HERE, "terms", None)) is not None:
        terms.append(term)


def mean_squared_distance(x: Tensor, quantized: Tensor, extent: Tensor) -> Tensor:
    """`mean(((x - x_hat) / R)**2)`: the distance of values and codes in ranges `R` of the grid.

    Backward: `dx = 2 * (x - x_hat) / (R**2 * elements)`. `x_hat` and `R` get no gradient: descent
    moves a value to its code, or into the range.

    >>> float(mean_squared_distance(ops.array([0.5, 3.0]), ops.array([1.0, 1.0]), ops.array(2.0)))
    0.53125
    """
    difference = x - ops.cast(ops.stop_gradient(quantized), x.dtype)
    return ops.mean(ops.square(ops.cast(difference, "float32") / ops.stop_gradient(extent)))
