"""Progressive replacement: the selection of the elements that training quantizes.

With replacement, training quantizes a share `p` of the elements of every tensor. The others are
only clipped to the grid's range and keep their full precision. `p` rises from 0 to 1. Evaluation
always quantizes all elements.

Source: the abstract of PEGE (arXiv 2509.00097) names the progressive, element-wise replacement of
weights and activations. How elements are selected is our own reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_qat.estimators import Estimator, GridStep
from keras_qat.quantizers.random_integers import draw_integers
from keras_qat.tensors import Tensor

Selection = Callable[[Tensor], Tensor]

SELECTIONS = ("random", "persistent", "error_first")
ORDERS = ("global", "forward", "reverse")

_NUMBERS = 1 << 24
_NUMBERS_IN_BATCH = 1 << 8


def check_replacement(replacement: Any, order: Any = "global") -> None:
    """Raises a `ValueError` unless both are names, or `replacement` is `None`.

    >>> check_replacement("random")
    """
    if replacement is not None and replacement not in SELECTIONS:
        raise ValueError(
            f"The replacement must be None or one of {SELECTIONS}. Received: {replacement!r}"
        )
    if order not in ORDERS:
        raise ValueError(f"The order must be one of {ORDERS}. Received: {order!r}")


def share_in_order(progress: float, place: int, places: int, order: str) -> float:
    """The share of a tensor's elements to quantize, when `progress` of all tensors is quantized.

    "global": `progress`. "forward": `clip(places * progress - place, 0, 1)`, so a tensor begins
    when the one before it is done. "reverse" is the same, counted from the last place. In every
    order the mean over all places is `progress`.

    Args:
        progress: the mean share of all tensors, 0 to 1.
        place: the place of the tensor in the graph, from 0.
        places: the number of tensors.
        order: one of `ORDERS`.

    Source: Smith and Islam 2026 (arXiv 2601.22660) replace layers by binary ones in this order.

    >>> [share_in_order(0.5, place, 3, "forward") for place in range(3)]
    [1.0, 0.5, 0.0]
    """
    if order == "global":
        return progress
    place = place if order == "forward" else places - 1 - place
    return min(max(places * progress - place, 0.0), 1.0)


def nothing_selected(noise: Tensor) -> Tensor:
    """The selection that leaves every element in full precision, clipped to the grid's range."""
    return ops.zeros(ops.shape(noise), "bool")


def select(
    selection: Selection | None, position: Tensor, code: Tensor, step: int = 1
) -> tuple[Tensor, Tensor | None]:
    """The codes of the selected elements, the positions of the others, and which are selected.

    Args:
        selection: `noise in steps -> which elements are selected`; `None` selects all.
        position: the positions on the grid.
        code: the nearest codes, in the units of positions.
        step: the distance from one code to the next.

    >>> position = ops.array([0.7, 1.4])
    >>> code, selected = select(lambda noise: noise > 0, position, ops.round(position))
    >>> [round(float(v), 1) for v in code]
    [1.0, 1.4]
    """
    if selection is None:
        return code, None
    selected = selection((code - position) / step)  # a graph drops the noise if it is not used
    return _choose(selected, code, position), selected


def passed_gradient(
    estimator: Estimator, upstream: Tensor, noise: Tensor, step: GridStep, selected: Tensor | None
) -> Tensor:
    """The estimator's gradient for the selected elements, `upstream` for the others.

    Elements that are not selected have no noise. Most estimators return `upstream` for them anyway.
    `None` selects all.

    >>> selected = ops.array([True, False])
    >>> halved = passed_gradient(Estimator("dsq"), ops.ones(2), ops.zeros(2), None, selected)
    >>> [round(float(v), 3) for v in halved]
    [0.494, 1.0]
    """
    passed = estimator(upstream, noise, step)
    if selected is None or estimator.keeps_noiseless:
        return passed
    return _choose(selected, passed, upstream)


def _choose(selected: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`where(selected, one, other)`, for a `selected` that broadcasts to the other two."""
    if keras.backend.backend() != "tensorflow":
        return ops.where(selected, one, other)
    import tensorflow as tf

    # Select needs tensors of one shape. where() broadcasts, and takes four times as long.
    if selected.shape != one.shape:
        selected = tf.broadcast_to(selected, tf.shape(one))
    return tf.raw_ops.Select(condition=selected, x=one, y=other)


def random_selection(shape: Any, share: Tensor, seed: Any) -> Selection:
    """Selects each element with the probability `share`, by a uniform number of 24 bits.

    Args:
        shape: the shape of the numbers; it broadcasts to the shape of the tensor.
        share: the share of the elements to select, 0 to 1: none at 0, all at 1.
        seed: a `keras.random.SeedGenerator` for fresh numbers in every call ("random"), or an
            integer for the same numbers ("persistent"): a selected element then stays selected
            while the share rises.

    >>> taken = random_selection((1000,), 0.25, seed=0)(None)
    >>> 200 < int(keras.ops.sum(keras.ops.cast(taken, "int32"))) < 300
    True
    """
    numbers = draw_integers(shape, _NUMBERS, seed)
    count = ops.cast(ops.round(share * _NUMBERS), "int32")
    return lambda noise: numbers < count


def random_selection_in_batch(shape: tuple[Any, ...], share: Tensor, seed: Any) -> Selection:
    """`random_selection` for a batch, at a fraction of the cost: independent in pairs.

    Each element gets the sum, modulo 1, of a number drawn for its example and a number drawn for
    its feature. Each sum is uniform, and any two sums are independent. Numbers and sums are uint8,
    whose overflow is the modulo. The selected share is thus the nearest multiple of 1/256.

    Args:
        shape: the shape of the batch, examples first.
        share: see `random_selection`.
        seed: a `keras.random.SeedGenerator`.

    >>> seed = keras.random.SeedGenerator(0)
    >>> taken = random_selection_in_batch((32, 100), 0.25, seed)(None)
    >>> 700 < int(keras.ops.sum(keras.ops.cast(taken, "int32"))) < 900
    True
    """
    batch, *features = shape
    count = ops.cast(ops.round(share * _NUMBERS_IN_BATCH), "int32")
    drawn = draw_integers((batch + math.prod(features),), _NUMBERS_IN_BATCH, seed)
    # A count of 256 does not fit in 8 bits, so sums are compared with `count - 1`, the largest sum
    # to select. For a count of 0 all sums are set to 2 and compared with 0: none is selected.
    drawn = ops.cast(ops.where(count > 0, drawn, 1), "uint8")
    last = ops.cast(ops.maximum(count - 1, 0), "uint8")
    examples = ops.reshape(drawn[:batch], (batch, *(1 for _ in features)))
    feature = ops.reshape(drawn[batch:], (1, *features))
    return lambda noise: examples + feature <= last


def selection_by_error(share: Tensor) -> Selection:
    """Selects the `round(share * elements)` elements with the smallest noise.

    Elements with the same noise as the last one are selected too. The function sorts the whole
    tensor, which takes much longer than drawing numbers.

    >>> [bool(taken) for taken in selection_by_error(0.5)(keras.ops.array([0.4, -0.1, 0.2, -0.5]))]
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
