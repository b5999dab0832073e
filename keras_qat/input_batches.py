"""`CalibrationData`: the user's input samples, as batches for a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.keras_graph import input_keys, input_name

_BATCH_SIZE = 64

Array = npt.NDArray[np.floating[Any]]


class CalibrationData:
    """Input samples, as batches for a model.

    Args:
        model: the model that the samples are inputs of.
        data: an array of samples, a dict or list of arrays for several inputs, or an iterable of
            batches such as a `tf.data.Dataset` (labels of `(inputs, labels)` batches are ignored).

    Raises:
        ValueError: no samples, shapes or names that do not fit the model, values that are not
            finite numbers, or a dataset without end.
    """

    def __init__(self, model: keras.Model, data: Any):
        self._names = input_keys(model)
        self._layers = [input_name(tensor) for tensor in model.inputs]
        self._shapes = [tensor.shape for tensor in model.inputs]
        if data is None:
            raise ValueError(
                "quantize() needs calibration_data: a few hundred input samples, for example "
                "calibration_data=x_train[:512]. Received: None"
            )
        self._batches = [self._check(batch) for batch in self._split(data)]
        if not self._batches:
            raise ValueError("The calibration data holds no samples.")

    def __iter__(self) -> Iterator[list[Array]]:
        return iter(self._batches)

    def signed_inputs(self) -> dict[str, bool]:
        """Whether any sample of an input is negative, by the name of its input layer."""
        return {
            name: any(bool((batch[index] < 0).any()) for batch in self._batches)
            for index, name in enumerate(self._layers)
        }

    def _split(self, data: Any) -> Iterable[list[Any]]:
        if hasattr(data, "shape") or isinstance(data, Mapping | list | tuple):
            arrays = [np.asarray(array) for array in self._in_order(data)]
            if not arrays[0].shape:
                yield arrays  # one number holds no samples: `_check` refuses its shape
                return
            for start in range(0, len(arrays[0]), _BATCH_SIZE):
                yield [array[start : start + _BATCH_SIZE] for array in arrays]
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            if _is_endless(data):
                raise ValueError(
                    "The calibration dataset repeats without end. Pass a few batches of it: "
                    "calibration_data=dataset.take(8)."
                )
            for batch in data:
                inputs = batch[0] if self._has_labels(batch) else batch
                yield [np.asarray(array) for array in self._in_order(inputs)]
        else:
            raise ValueError(
                "calibration_data must be an array, a dict or list of arrays, or an iterable of "
                f"batches. Received: {type(data).__name__}"
            )

    def _has_labels(self, batch: Any) -> bool:
        """Whether a batch is `(inputs, labels)` or `(inputs, labels, weights)`.

        A tuple of arrays may also be the inputs of a model with several: then their shapes fit.
        """
        if not isinstance(batch, tuple) or len(batch) != len(self._shapes) or len(batch) == 1:
            return isinstance(batch, tuple)
        shapes = [getattr(each, "shape", None) for each in batch]
        pairs = zip(shapes, self._shapes, strict=True)
        return not all(shape is not None and _fits(shape, expected) for shape, expected in pairs)

    def _in_order(self, inputs: Any) -> list[Any]:
        if isinstance(inputs, Mapping):
            if set(inputs) != set(self._names):
                raise ValueError(
                    f"The model's inputs are {self._names}. Received calibration data for: "
                    f"{sorted(inputs)}"
                )
            return [inputs[name] for name in self._names]
        arrays = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(arrays) != len(self._names):
            raise ValueError(
                f"The model has {len(self._names)} inputs: {self._names}. Received calibration "
                f"data for {len(arrays)}. Pass inputs without labels, and stack samples into one "
                "array for each input."
            )
        return arrays

    def _check(self, batch: list[Any]) -> list[Array]:
        for array, shape, name in zip(batch, self._shapes, self._names, strict=True):
            if not _fits(array.shape, shape) or not len(array):
                raise ValueError(
                    f"Calibration data for input {name!r} must have shape {shape}. "
                    f"Received: {array.shape}"
                )
        arrays = [_as_numbers(*pair) for pair in zip(batch, self._names, strict=True)]
        if len({len(array) for array in arrays}) > 1:
            raise ValueError(
                f"The inputs {self._names} need equally many samples. Received: "
                f"{[len(array) for array in arrays]} in a batch"
            )
        return arrays


def _fits(shape: Any, expected: Any) -> bool:
    """Whether samples of this shape are samples of an input, whose sizes may be unknown."""
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape[1:], expected[1:], strict=True)
    )


def _as_numbers(array: Any, name: str) -> Array:
    try:
        if np.iscomplexobj(array):
            raise TypeError("complex numbers have two parts")
        with np.errstate(over="ignore"):  # the check for infinity follows
            numbers = np.asarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Calibration data for input {name!r} must be numbers. Received: {array.dtype}"
        ) from error
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"Calibration data for input {name!r} holds NaN or infinity.")
    return numbers


def _is_endless(data: Any) -> bool:
    """Whether this is a `tf.data.Dataset` without end, whose cardinality is -1."""
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1
