"""A sample of the training data of a `fit`, in batches, augmentation included."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import flat_inputs

Batch = list[np.ndarray]

SAMPLES = 4096
"""The samples that a sample has at least, if the data and the memory have as many."""
_BYTES = 2**29
_DEFAULT_BATCH_SIZE = 32


def sample_of_pipeline(
    model: keras.Model, arguments: dict[str, Any], samples: int = SAMPLES
) -> list[Batch]:
    """The inputs of the first training batches that `fit` would see with these arguments.

    The sample ends with the batch that completes `samples`, and after half a gigabyte or one
    epoch at the latest. Of arrays it is a random choice of the samples that do not validate. Of a
    dataset it is the beginning of a fresh pass, with its shuffling and its augmentation. A
    generator is read once: `arguments["x"]` becomes a generator that yields the same batches again.

    Args:
        model: the model that trains.
        arguments: the arguments of `fit` by name; `x` may change.
        samples: how many samples are enough.

    Returns: the batches, each as the list of the model's inputs.
    """
    x, steps = arguments.get("x"), arguments.get("steps_per_epoch")
    if x is None:
        return []
    if is_arrays(x):
        return list(_bounded(_of_arrays(model, x, arguments), None, samples))
    if isinstance(x, keras.utils.PyDataset):
        count = math.inf if x.num_batches is None else x.num_batches
        indices = itertools.takewhile(lambda index: index < count, itertools.count())
        batches = (x[index] for index in indices)
        return list(_bounded((_inputs(model, batch) for batch in batches), steps, samples))
    if isinstance(x, Iterator):
        read: list[Any] = []

        def remembering() -> Iterator[Batch]:
            for batch in x:
                read.append(batch)
                yield _inputs(model, batch)

        found = list(_bounded(remembering(), steps, samples))
        arguments["x"] = _chained(read, x)
        return found
    return list(_bounded((_inputs(model, batch) for batch in x), steps, samples))


def _chained(first: list[Any], then: Iterator[Any]) -> Iterator[Any]:
    """A generator, which is what Keras takes; it does not take `itertools.chain`."""
    yield from first
    yield from then


def is_arrays(x: Any) -> bool:
    """Whether `fit` gets samples, stacked along the first axis, and makes the batches itself."""
    leaves = keras.tree.flatten(x) if isinstance(x, Mapping | list | tuple) else [x]
    return all(hasattr(leaf, "shape") for leaf in leaves)


def _of_arrays(model: keras.Model, x: Any, arguments: Mapping[str, Any]) -> Iterator[Batch]:
    arrays = [np.asarray(each) for each in flat_inputs(model, x)]
    count = len(arrays[0])
    if split := arguments.get("validation_split"):
        count = math.floor(count * (1.0 - split))
    size = arguments.get("batch_size") or _DEFAULT_BATCH_SIZE
    order = np.random.default_rng(0).permutation(count)
    for start in range(0, count, size):
        places = order[start : start + size]
        yield [array[places] for array in arrays]


def _inputs(model: keras.Model, batch: Any) -> Batch:
    """The inputs of a batch `(x, y)` or `(x, y, sample_weight)`."""
    x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
    return [np.asarray(keras.ops.convert_to_numpy(each)) for each in flat_inputs(model, x)]


def _bounded(batches: Iterable[Batch], most: int | None, enough: int) -> Iterator[Batch]:
    """The first batches, until there are enough samples or bytes."""
    samples = size = 0
    for batch in itertools.islice(batches, most):
        yield batch
        samples += len(batch[0])
        size += sum(array.nbytes for array in batch)
        if samples >= enough or size >= _BYTES:
            return
