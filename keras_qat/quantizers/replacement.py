"""Progressive replacement: which elements of a tensor are quantized already.

While a model is trained with replacement, a share `p` of the elements of every tensor is quantized;
the others are only clipped to the grid's range and keep their full precision. `p` rises from 0
to 1; evaluation always quantizes everything.

Source: the abstract of PEGE (arXiv 2509.00097) names the progressive, element-wise replacement of
weights and activations. How elements are chosen is our own reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any
Selection = Callable[[Tensor], Tensor]

SELECTIONS = ("random", "persistent", "error_first")


def check_replacement(replacement: Any) -> None:
    """Raises a `ValueError` unless `replacement` is `None` or the name of a selection.

    >>> check_replacement("random")
    """
    if replacement is not None and replacement not in SELECTIONS:
        raise ValueError(
            f"The replacement must be None or one of {SELECTIONS}. Received: {replacement!r}"
        )


def by_chance(shape: Any, share: Tensor, seed: Any) -> Selection:
    """Elements whose uniform number in [0, 1) is below `share`.

    Args:
        shape: of the numbers; it broadcasts to that of the tensor.
        share: how many elements to take, 0 to 1: none at 0, all at 1.
        seed: a `keras.random.SeedGenerator` for fresh numbers at every call ("random"), or an
            integer for the same ones ("persistent"): then an element once taken stays taken.

    >>> taken = by_chance((1000,), 0.25, seed=0)(None)
    >>> 200 < int(keras.ops.sum(keras.ops.cast(taken, "int32"))) < 300
    True
    """
    numbers = keras.random.uniform(shape, seed=seed)
    return lambda noise: numbers < share


def by_error(share: Tensor) -> Selection:
    """The `round(share * elements)` elements with the smallest noise; ties at the last one too.

    It sorts the whole tensor, which takes much longer than drawing numbers.

    >>> [bool(taken) for taken in by_error(0.5)(keras.ops.array([0.4, -0.1, 0.2, -0.5]))]
    [False, True, True, False]
    """

    def select(noise: Tensor) -> Tensor:
        error = ops.abs(noise)
        ordered = ops.sort(ops.reshape(error, (-1,)))
        elements = ops.shape(ordered)[0]
        count = ops.cast(ops.round(share * ops.cast(elements, "float32")), "int32")
        largest = ops.take(ordered, ops.maximum(count - 1, 0))
        return ops.logical_and(error <= largest, count > 0)

    return select
