"""Finds BatchNormalization whose running statistics do not fit the data, and sets them anew."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import GraphNode, rebuild
from keras_qat.keras_moments import captured_moments
from keras_qat.quantization.passes.layer_copies import LayerCopies
from keras_qat.training.backend_state import restored
from keras_qat.training.batch_normalization import Reestimation, trained_normalizations

_FAR = 3.0
"""The factor between running variance and variance of the data, in the median of the channels,
beyond which a layer has hardly been trained. Samples of 64 examples are off by a fifth at most."""


def with_statistics_of(
    model: keras.Model, given: keras.Model, data: CalibrationData
) -> tuple[keras.Model, str]:
    """The model, or a copy with statistics of the data if its own are far from them.

    A network that has not been trained has the statistics 0 and 1. Grids that were calibrated with
    them would not fit what training sees, as it normalizes by the statistics of each batch.

    Args:
        model: the float model, or a copy of it.
        given: the user's model, which does not change.
        data: the calibration data.

    Returns:
        The model, and what was changed in words; empty if nothing was.
    """
    far = _far_layers(model, next(iter(data)))
    if not far:
        return model, ""
    copy = _copied(model) if model is given else model
    Reestimation(copy, data)()
    worst = max(far, key=far.__getitem__)
    return copy, (
        f"The running statistics of BatchNormalization are not those of the calibration data, in "
        f"{len(far)} of {len(trained_normalizations(model))} layers (in {worst!r} by a factor of "
        f"{far[worst]:.3g}), as in a network that has hardly been trained. The quantized model "
        "starts with statistics of the calibration data, and its grids fit these."
    )


def _far_layers(model: keras.Model, batch: list[Any]) -> dict[str, float]:
    """The factor between the two variances, for each layer where it is large."""
    layers = trained_normalizations(model)
    if not layers:
        return {}
    network = keras.Model(model.inputs, model.outputs)
    with restored(model.non_trainable_variables), captured_moments(layers) as found:
        network(batch, training=True)
    far = {}
    for layer, calls in zip(layers, found, strict=True):
        factors = [_factor(layer, ops.convert_to_numpy(variance)) for _, variance in calls]
        if factors and max(factors) > _FAR:
            far[layer.name] = max(factors)
    return far


def _factor(layer: Any, variance: np.ndarray) -> float:
    """The median over channels of the factor between two variances, 1 or more."""
    running = ops.convert_to_numpy(layer.moving_variance) + layer.epsilon
    ratio = np.log(np.asarray(variance).reshape(running.shape) + layer.epsilon) - np.log(running)
    return float(np.exp(np.median(np.abs(ratio))))


def _copied(model: keras.Model) -> keras.Model:
    copies = LayerCopies()

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return copies.of(node.operation)(*args, **kwargs)

    result = rebuild(model, call)
    copies.copy_weights()
    return result
