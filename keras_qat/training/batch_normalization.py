"""`reestimate_batch_normalization`: running statistics for the current weights."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import flat_nodes

Array = np.ndarray


def reestimate_batch_normalization(model: keras.Model, data: Any) -> None:
    """Sets the running statistics of every BatchNormalization from data.

    In training, weights near the threshold between two codes flip from step to step, at any
    learning rate. A running average mixes the statistics of many such networks, so evaluation
    normalizes by statistics that no single network has. Here weights are frozen, and all elements
    are quantized. Each channel gets, as averages over the samples of the batches `b`,

        moving_mean = average(mean_b)
        moving_variance = average(variance_b + (mean_b - moving_mean)**2)

    where every layer normalizes by the statistics of the batch, as in training. No other variable
    changes. Training does not read the running statistics, so it goes on unchanged.

    Source: Wu and Johnson 2021 (arXiv 2105.07576), "precise" statistics; Nagel et al. 2022 (arXiv
    2203.11086) for quantized networks, whose weights oscillate.

    Args:
        model: any built Functional, Sequential or quantized model.
        data: as for calibration: an array of samples, a dict or list of arrays for several inputs,
            or an iterable of batches such as a `tf.data.Dataset`. Use a few thousand training
            samples, with the augmentation and the batch size of training.

    Raises:
        ValueError: no samples, shapes that do not fit the model, values that are not finite, or a
            BatchNormalization that is called several times.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> reestimate_batch_normalization(model, np.float32([[1.0], [3.0]]))
    >>> [float(statistic[0]) for statistic in model.layers[0].non_trainable_variables]
    [2.0, 1.0]
    """
    Reestimation(model, data)()


class Reestimation:
    """A repeated re-estimation: it keeps the batches and, on TensorFlow, the traced model."""

    def __init__(self, model: keras.Model, data: Any):
        self._batches = CalibrationData(model, data)
        self._model = model
        self._layers = _normalizations(model)
        self._forward = _training_pass(model)

    def __call__(self) -> None:
        """Sets the running statistics."""
        if not self._layers:
            return
        sizes, means, variances = zip(*self._statistics(), strict=True)
        for layer, mean, variance in zip(
            self._layers, zip(*means, strict=True), zip(*variances, strict=True), strict=True
        ):
            overall = np.average(mean, axis=0, weights=sizes)
            spread = np.average(np.square(mean - overall) + variance, axis=0, weights=sizes)
            layer.moving_mean.assign(overall)
            layer.moving_variance.assign(spread)

    def _statistics(self) -> Iterator[tuple[int, list[Array], list[Array]]]:
        """For each batch, its size, and the means and the variances of every layer."""
        with _restored(self._model.non_trainable_variables), _forgetting(self._layers):
            for quantizer in getattr(self._model, "replaced_quantizers", {}).values():
                quantizer.replaced_share.assign(1.0)
            for batch in self._batches:
                self._forward(batch)
                yield (
                    len(batch[0]),
                    [_double(layer.moving_mean) for layer in self._layers],
                    [_double(layer.moving_variance) for layer in self._layers],
                )


def _normalizations(model: keras.Model) -> list[Any]:
    """The layers whose running statistics training updates."""
    calls = Counter(
        node.operation
        for node in flat_nodes(model)
        if isinstance(node.operation, keras.layers.BatchNormalization) and node.operation.trainable
    )
    shared = [layer.name for layer, count in calls.items() if count > 1]
    if shared:
        raise ValueError(
            "BatchNormalization layers must be called once for re-estimation: of several calls, "
            f"only the statistics of the last call would stay. Received: {shared}. Freeze these "
            "layers first."
        )
    return list(calls)


def _training_pass(model: keras.Model) -> Callable[[list[Array]], Any]:
    """A function that calls the model in training mode on a list of arrays."""
    layers = keras.Model(model.inputs, model.outputs)
    if keras.backend.backend() != "tensorflow":
        return lambda batch: layers(batch, training=True)
    import tensorflow as tf

    traced: Callable[[list[Array]], Any] = tf.function(
        lambda batch: layers(batch, training=True), autograph=False, reduce_retracing=True
    )
    return traced


@contextlib.contextmanager
def _forgetting(layers: Sequence[Any]) -> Iterator[None]:
    """A context without momentum: after a batch, the running statistics are its statistics."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextlib.contextmanager
def _restored(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """A context that restores variables at its end, for example the seeds of quantizers."""
    values = [ops.convert_to_numpy(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _double(variable: keras.Variable) -> Array:
    return np.asarray(ops.convert_to_numpy(variable), np.float64)
