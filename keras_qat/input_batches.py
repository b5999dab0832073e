"""`CalibrationData`: the user's input samples, as batches for a model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.integer.progress import tracked
from keras_qat.integer.samples import batches, fits
from keras_qat.keras_graph import input_keys, input_name

_BATCH_SIZE = 64

Array = npt.NDArray[np.floating[Any]]


class CalibrationData:
    """Input samples, as batches for a model.

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
        self._batches = [self._check(batch.inputs) for batch in found]
        if not self._batches:
            raise ValueError("The calibration data holds no samples.")

    def __iter__(self) -> Iterator[list[Array]]:
        return (
            tracked(self._batches, self.watched_text) if self.watched_text else iter(self._batches)
        )

    def watched_as(self, text: str) -> CalibrationData:
        """The same data. A terminal shows how many batches have been read."""
        watched = copy.copy(self)
        watched.watched_text = text
        return watched

    def signed_inputs(self) -> dict[str, bool]:
        """Whether any sample of an input is negative, by the name of its input layer."""
        return {
            name: any(bool((batch[index] < 0).any()) for batch in self._batches)
            for index, name in enumerate(self._layers)
        }

    def _check(self, batch: list[Any]) -> list[Array]:
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
        return arrays


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
