"""`CalibrationData`: the user's input samples, as batches for a model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.integer.progress import tracked
from keras_qat.integer.samples import batches, fits, is_whole
from keras_qat.kept_batches import KeptBatches
from keras_qat.keras_graph import input_keys, input_name

_BATCH_SIZE = 64

Array = npt.NDArray[np.floating[Any]]


class CalibrationData:
    """Input samples, as batches of float32 for a model.

    Data in batches is read once: it may be a generator, or come in another order each time. Memory
    does not grow with the number of batches, see `KeptBatches`. Of data in arrays nothing is
    copied.

    Args:
        model: the model that the samples are inputs of.
        data: an array of samples, a dict or list of arrays for several inputs, or batches such as a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator. Labels in `(inputs,
            labels)` are ignored. See `keras_qat.integer.samples`.

    Raises:
        ValueError: no samples, shapes or names that do not fit the model, values that are not
            finite numbers, or a dataset without end.
    """

    def __init__(self, model: keras.Model, data: Any):
        self.watched_text = ""
        self._names = input_keys(model)
        self._layers = [input_name(tensor) for tensor in model.inputs]
        self._shapes = [tensor.shape for tensor in model.inputs]
        if data is None:
            raise ValueError(
                "quantize() needs calibration_data: a few hundred input samples, for example "
                "calibration_data=x_train[:512]. Received: None"
            )
        found = batches(data, self._names, self._shapes, "calibration_data", _BATCH_SIZE)
        self._signed = dict.fromkeys(self._layers, False)
        checked = (self._checked(batch.inputs) for batch in found)
        self._batches: list[list[Any]] | KeptBatches = (
            list(checked) if is_whole(data) else KeptBatches(map(_in_few_bytes, checked))
        )
        if not self._batches:
            raise ValueError("The calibration data holds no samples.")

    def __iter__(self) -> Iterator[list[Array]]:
        found: Iterable[list[Any]] = self._batches
        if self.watched_text:
            found = tracked(self._batches, self.watched_text)
        return ([np.asarray(array, np.float32) for array in batch] for batch in found)

    def watched_as(self, text: str) -> CalibrationData:
        """The same data. A terminal shows how many batches have been read."""
        watched = copy.copy(self)
        watched.watched_text = text
        return watched

    def signed_inputs(self) -> dict[str, bool]:
        """Whether any sample of an input is negative, by the name of its input layer."""
        return dict(self._signed)

    def _checked(self, batch: list[Any]) -> list[Any]:
        for array, shape, name in zip(batch, self._shapes, self._names, strict=True):
            if not fits(array.shape, shape) or not len(array):
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
        for name, numbers in zip(self._layers, arrays, strict=True):
            self._signed[name] = self._signed[name] or bool((numbers < 0).any())
        return batch


def _in_few_bytes(batch: list[Any]) -> list[Any]:
    """Arrays of a type that a file can state, of 4 bytes a number at most."""
    return [
        array if array.dtype.kind in "biuf" and array.dtype.itemsize <= 4 else np.float32(array)
        for array in batch
    ]


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
