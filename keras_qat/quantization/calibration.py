"""Ranges and histograms of a float model's tensors, from calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import graph_between, layer_name
from keras_qat.keras_precision import full_precision
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
        model: the float model.
        tensors: symbolic tensors of the model.
        data: inputs of the model.
        see: a function that gets every tensor with its values, once for each batch.

    Returns:
        An array of shape `(tensors, 2)`.

    Raises:
        ValueError: a tensor has values that are NaN, infinite or larger than `LARGEST_VALUE`.
    """
    ranges = np.array([[np.inf, -np.inf]] * len(tensors))
    for values in _values_of(model, tensors, data):
        for index, value in enumerate(values):
            see(tensors[index], value)
            low, high = float(np.min(value)), float(np.max(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(
                    f"Layer {layer_name(tensors[index])!r} yields values that are not finite for "
                    "the calibration data. Check the weights and the data."
                )
            if max(-low, high) > LARGEST_VALUE:
                raise ValueError(
                    f"Layer {layer_name(tensors[index])!r} yields values that are too large for "
                    f"the calibration data: products beyond {LARGEST_VALUE:.0e} overflow float32. "
                    f"Received: {max(-low, high):.3g}. Scale the data, or check the weights."
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

    It is one pass over the data, so memory does not grow with the number of samples.

    Args:
        model: the float model.
        tensors: symbolic tensors of the model.
        ranges: the result of `activation_ranges` for them.
        data: inputs of the model.
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
    probe = graph_between(model.inputs, list(tensors))
    for batch in data:
        with full_precision(probe):
            outputs = probe(batch, training=False)  # eager: tracing costs more than a few batches
        yield [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]
