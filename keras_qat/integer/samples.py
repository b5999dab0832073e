"""One rule for the samples that a caller passes, to calibrate a model or to prove a file."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = Sequence[int | None]

MOST_BATCHES = 100
"""The batches that are taken from data that does not tell its length."""

_WITH_LABELS = (1, 2, 3)
"""The lengths of `(inputs,)`, `(inputs, labels)` and `(inputs, labels, weights)`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Samples of every input in the model's order, and their labels or `None`."""

    inputs: list[Array]
    labels: Any = None


def batches(
    data: Any, names: Sequence[str], shapes: Sequence[Shape], what: str, size: int | None = None
) -> Iterator[Batch]:
    """The samples of any form, batch by batch.

    Samples are an array, a dict by input name, or a list or tuple in the order of the inputs.
    Batches of them come from a `tf.data.Dataset`, a `keras.utils.PyDataset` or any iterable. A
    tuple of as many arrays as there are inputs is inputs. Any other tuple of up to three is
    `(inputs, labels, weights)`.

    Args:
        data: the samples.
        names: the names of the inputs.
        shapes: the shapes of the inputs; the first size counts examples, `None` is any size.
        what: the argument that holds the samples, for messages.
        size: examples in a batch that is cut from arrays; by default all. Batches of a dataset
            stay as they are.

    Raises:
        ValueError: other names, another number of inputs, labels alone, or a dataset without end.

    >>> found = batches((np.ones((3, 2)), [0, 1, 1]), ["x"], [(None, 2)], "samples")
    >>> [(batch.inputs[0].shape, batch.labels) for batch in found]
    [((3, 2), [0, 1, 1])]
    """
    if is_whole(data):
        yield from _cut(_as_batch(data, names, shapes, what), size)
        return
    if isinstance(data, str | bytes) or not (_is_sequence(data) or isinstance(data, Iterable)):
        raise ValueError(
            f"{what} must be an array, a dict or list of arrays, or an iterable of batches. "
            f"Received: {type(data).__name__}"
        )
    if _is_endless(data):
        raise ValueError(
            f"The dataset in {what} repeats without end. Pass a few batches of it: "
            f"{what}=dataset.take(8), calibration_batches=8 to quantize, or "
            "(sequence[index] for index in range(8)) of a sequence."
        )
    found = map(data.__getitem__, range(data.num_batches)) if _is_sequence(data) else data
    known = _is_sequence(data) or _states_length(data)
    for number, batch in enumerate(found):
        if number == MOST_BATCHES and not known:
            warnings.warn(
                f"{what} does not tell its length, and did not end within {MOST_BATCHES} batches: "
                "the first ones are taken. Pass an array, a dataset that tells its length (tf.data "
                "has assert_cardinality), or calibration_batches=n to quantize.",
                stacklevel=3,
            )
            return
        yield _as_batch(batch, names, shapes, what)


class FirstBatches:
    """The first batches of data that comes in batches; data in arrays stays whole.

    Args:
        data: see `batches`.
        count: the number of batches.

    Raises:
        ValueError: a count that is no whole number from 1 on, or data in arrays.

    >>> list(FirstBatches(iter([1, 2, 3]), 2))
    [1, 2]
    """

    def __init__(self, data: Any, count: int):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"calibration_batches must be a whole number from 1 on. Received: {count!r}"
            )
        if is_whole(data) or data is None:
            raise ValueError(
                "calibration_batches counts batches of a dataset or a generator. Received: "
                f"{type(data).__name__}"
            )
        self._data = data
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        data, ends = self._data, itertools.count()
        if _is_sequence(data):
            places = ends if data.num_batches is None else range(data.num_batches)
            data = map(data.__getitem__, places)
        return itertools.islice(iter(data), self._count)


def first_batches(data: Any, count: int | None) -> Any:
    """The data, or its first batches; see `FirstBatches`."""
    return data if count is None else FirstBatches(data, count)


def _states_length(data: Any) -> bool:
    """Whether batches tell their number. A `tf.data.Dataset` has a length, and may not know it."""
    if hasattr(data, "cardinality"):
        return int(data.cardinality()) >= 0
    try:
        len(data)
    except (TypeError, NotImplementedError):  # no length, or a PyDataset that does not define it
        return False
    return True


def gathered(data: Any, names: Sequence[str], shapes: Sequence[Shape], what: str) -> Batch:
    """All samples as one batch; see `batches`.

    Raises:
        ValueError: also for no batches, and for batches of unlike shapes.

    >>> gathered(iter([np.ones((2, 3)), np.zeros((1, 3))]), ["x"], [(None, 3)], "samples").inputs
    [array([[1., 1., 1.],
           [1., 1., 1.],
           [0., 0., 0.]])]
    """
    parts = list(batches(data, names, shapes, what))
    if not parts:
        raise ValueError(f"{what} holds no samples. Received: {type(data).__name__}")
    if len(parts) == 1:
        return parts[0]
    inputs = []
    for name, arrays in zip(names, zip(*(part.inputs for part in parts), strict=True), strict=True):
        found = {array.shape[1:] for array in arrays}
        if len(found) > 1 or not all(array.shape for array in arrays):
            raise ValueError(
                f"The batches of {what} for the input {name!r} have unlike shapes. Received: "
                f"{[array.shape for array in arrays]}"
            )
        inputs.append(np.concatenate(arrays))
    return Batch(inputs, _joined([part.labels for part in parts]))


def is_whole(data: Any) -> bool:
    """Whether these are samples in arrays, and no batches that are read one after another.

    >>> is_whole(np.ones((2, 3))), is_whole(iter([np.ones((2, 3))]))
    (True, False)
    """
    return hasattr(data, "shape") or isinstance(data, Mapping | list | tuple)


def fits(shape: Sequence[Any], expected: Shape) -> bool:
    """Whether samples of this shape are samples of an input, whose sizes may be unknown.

    >>> fits((8, 5), (None, 5)), fits((8, 5), (1, None)), fits((8, 5), (None, 4))
    (True, True, False)
    """
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape[1:], expected[1:], strict=True)
    )


def _as_batch(data: Any, names: Sequence[str], shapes: Sequence[Shape], what: str) -> Batch:
    inputs, labels = _split_labels(data, shapes)
    if inputs is None and labels is not None:
        raise ValueError(f"Labels need their samples. Received: {what}=(None, labels)")
    return Batch(_in_order(inputs, names, shapes, what), labels)


def _split_labels(data: Any, shapes: Sequence[Shape]) -> tuple[Any, Any]:
    """The inputs and the labels of a tuple; the labels are `None` if there are none."""
    if not isinstance(data, tuple) or len(data) not in _WITH_LABELS:
        return data, None
    if len(data) == len(shapes) > 1 and all(map(_fits_array, data, shapes)):
        return data, None
    if len(shapes) == 1 or isinstance(data[0], Mapping | list | tuple):
        return data[0], data[1] if len(data) > 1 else None
    return data, None


def _fits_array(array: Any, expected: Shape) -> bool:
    stacked = _stacked(array)
    return stacked is not None and fits(stacked.shape, expected)


def _stacked(values: Any) -> Array | None:
    """The values as one array of numbers; `None` if they are none, as rows of unlike lengths."""
    if isinstance(values, Mapping):
        return None
    try:
        return np.asarray(values)
    except ValueError:
        return None


def _in_order(inputs: Any, names: Sequence[str], shapes: Sequence[Shape], what: str) -> list[Array]:
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ValueError(
                f"{what}: the model's inputs are {list(names)}. Received: {sorted(inputs)}"
            )
        return [np.asarray(inputs[name]) for name in names]
    listed = isinstance(inputs, list | tuple)
    if len(names) == 1 and listed and _fits_array(inputs, shapes[0]):
        return [np.asarray(inputs)]
    arrays = list(inputs) if listed else [inputs]
    if len(arrays) != len(names):
        raise ValueError(
            f"The model has {len(names)} inputs: {list(names)}. Received {what} for "
            f"{len(arrays)}. Pass a list in the order of the inputs or a dict by their names, with "
            "the samples stacked into one array for each input; or (inputs, labels)."
        )
    return [np.asarray(array) for array in arrays]


def _cut(batch: Batch, size: int | None) -> Iterator[Batch]:
    """The batch in parts. One number holds no samples, and stays whole."""
    if size is None or not all(array.shape for array in batch.inputs):
        yield batch
        return
    for start in range(0, len(batch.inputs[0]), size):
        yield Batch([array[start : start + size] for array in batch.inputs])


def _joined(labels: Sequence[Any]) -> Any:
    """The labels of all batches: arrays, or dicts and lists of arrays for several outputs."""
    first = labels[0]
    if any(each is None for each in labels):
        return None
    if isinstance(first, Mapping):
        return {key: _joined([each[key] for each in labels]) for key in first}
    if isinstance(first, list | tuple):
        return [_joined(parts) for parts in zip(*labels, strict=True)]
    return np.concatenate([np.asarray(each) for each in labels])


def _is_sequence(data: Any) -> bool:
    """Whether this is a `keras.utils.PyDataset`, which yields batches by their index."""
    return hasattr(data, "num_batches") and hasattr(data, "__getitem__")


def _is_endless(data: Any) -> bool:
    """Whether this is a dataset without end: its cardinality is -1, or its length is `None`."""
    if _is_sequence(data):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1
