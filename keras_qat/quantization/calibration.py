"""What calibration data makes of a float model's tensors: their ranges, and their histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import layer_name
from keras_qat.quantizers.initial_scale import LARGEST_VALUE, Histogram

_BINS = 2048

Array = npt.NDArray[np.floating[Any]]


def activation_ranges(
    model: keras.Model,
    tensors: Sequence[Any],
    data: CalibrationData,
    see: Callable[[Any, Array], None] = lambda tensor, values: None,
) -> npt.NDArray[np.float64]:
    """The least and the largest value of each symbolic tensor of the model, in inference mode.

    Args:
        model: float model.
        tensors: symbolic tensors of it.
        data: its inputs.
        see: gets every tensor with its values for each batch, once.

    Returns:
        An array of shape `(tensors, 2)`.

    Raises:
        ValueError: a tensor takes NaN or infinite values, or larger ones than `LARGEST_VALUE`.
    """
    ranges = np.array([[np.inf, -np.inf]] * len(tensors))
    for values in _values_of(model, tensors, data):
        for index, value in enumerate(values):
            see(tensors[index], value)
            low, high = float(np.min(value)), float(np.max(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(
                    f"The model's own values are not finite behind layer "
                    f"{layer_name(tensors[index])!r} for the calibration data. Check the weights "
                    "and the data."
                )
            if max(-low, high) > LARGEST_VALUE:
                raise ValueError(
                    f"The model's own values are too large behind layer "
                    f"{layer_name(tensors[index])!r} for the calibration data: products beyond "
                    f"{LARGEST_VALUE:.0e} overflow float32. Scale the data, or check the weights. "
                    f"Received: {max(-low, high):.3g}"
                )
            ranges[index] = min(ranges[index, 0], low), max(ranges[index, 1], high)
    return ranges


def activation_histograms(
    model: keras.Model,
    tensors: Sequence[Any],
    ranges: npt.NDArray[np.float64],
    data: Iterable[list[Array]],
) -> list[Histogram]:
    """One histogram for each symbolic tensor of the model, in inference mode.

    One pass over the data: memory does not grow with the number of samples.

    Args:
        model: float model.
        tensors: symbolic tensors of it.
        ranges: what `activation_ranges` found for them.
        data: its inputs.
    """
    counts = np.zeros((len(tensors), _BINS))
    edges = [np.linspace(low, high if high > low else low + 1.0, _BINS + 1) for low, high in ranges]
    for values in _values_of(model, tensors, data):
        for index, value in enumerate(values):
            counts[index] += np.histogram(value, bins=edges[index])[0]
    return [
        Histogram((edge[:-1] + edge[1:]) / 2, count, low, high)
        for edge, count, (low, high) in zip(edges, counts, ranges, strict=True)
    ]


def _values_of(
    model: keras.Model, tensors: Sequence[Any], data: Iterable[list[Array]]
) -> Iterator[list[Array]]:
    """The values of symbolic tensors for each batch."""
    if not tensors:
        return
    probe = keras.Model(model.inputs, list(tensors))
    for batch in data:
        outputs = probe(batch, training=False)  # eagerly: tracing costs more than a few batches
        yield [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]
