"""Finds BatchNormalization whose running statistics do not fit the data, and sets them anew."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import graph_between
from keras_qat.keras_moments import captured_moments
from keras_qat.quantization.passes.layer_copies import nothing_stays_float
from keras_qat.quantization.passes.rewriting import Rewriting
from keras_qat.training.backend_state import restored
from keras_qat.training.batch_normalization import Reestimation, trained_normalizations

_FAR = 3.0
"""The factor between running variance and variance of the data, in the median of the channels,
beyond which statistics do not fit. The statistics of 64 examples are off by a fifth at most."""

_UNTRAINED = 0.15
"""The largest relative distance from a mix of mean 0 and variance 1 with the data's statistics.

A running average starts at mean 0 and variance 1. Other statistics come from training on other
data, or from the user: they stay.
"""


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
    copy = Rewriting(model, [], nothing_stays_float).rebuilt() if model is given else model
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
    network = graph_between(model.inputs, model.outputs)
    with restored(model.non_trainable_variables), captured_moments(layers) as found:
        network(batch, training=True)
    far = {}
    for layer, calls in zip(layers, found, strict=True):
        of_data = [tuple(map(ops.convert_to_numpy, moments)) for moments in calls]
        factors = [_factor(layer, mean, variance) for mean, variance in of_data]
        if factors and max(factors) > _FAR:
            far[layer.name] = max(factors)
    return far


def _factor(layer: Any, mean: np.ndarray, variance: np.ndarray) -> float:
    """The median over channels of the factor between two variances, 1 or more.

    It is 1 for statistics that no average has on its way from mean 0 and variance 1 to the data.
    """
    running = np.asarray(ops.convert_to_numpy(layer.moving_variance), np.float64)
    center = np.asarray(ops.convert_to_numpy(layer.moving_mean), np.float64)
    mean, variance = (
        np.reshape(each, running.shape).astype(np.float64) for each in (mean, variance)
    )
    if not np.all(np.isfinite([running, center, mean, variance])) or np.any(running <= 0.0):
        return 1.0
    toward = np.concatenate([1.0 - variance, -mean])
    away = np.concatenate([running - variance, center - mean])
    share = np.clip(toward @ away / max(toward @ toward, 1e-12), 0.0, 1.0)
    left = (away - share * toward) / np.concatenate([running, np.sqrt(running)])
    if np.sqrt(np.mean(np.square(left))) > _UNTRAINED:
        return 1.0
    ratio = np.log(variance + layer.epsilon) - np.log(running + layer.epsilon)
    return float(np.exp(np.median(np.abs(ratio))))
