"""`reestimate_batch_normalization`: running statistics that belong to the weights as they are."""

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
    """Sets the running statistics of every BatchNormalization to those of data.

    In training, weights near the threshold between two codes flip from step to step, at any
    learning rate. A running average mixes the statistics of many such networks, and evaluation
    normalizes by what none of them has. Here, with frozen weights and everything quantized, each
    channel gets, as averages over the samples of the batches `b`,

        moving_mean = average(mean_b)
        moving_variance = average(variance_b + (mean_b - moving_mean)**2)

    where every layer normalizes by the statistics of the batch, as in training. No other variable
    changes, and training does not read these: it goes on as it would have.

    Source: Wu and Johnson 2021 (arXiv 2105.07576), "precise" statistics; Nagel et al. 2022 (arXiv
    2203.11086) for quantized networks, whose weights oscillate.

    Args:
        model: any built Functional, Sequential or quantized model.
        data: as for calibration: an array of samples, a dict or list of arrays for several inputs,
            or an iterable of batches such as a `tf.data.Dataset`. A few thousand training samples,
            augmented as in training, in batches of the size it has there.

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
    """The same, for many times: it keeps the batches, and on TensorFlow the traced model."""

    def __init__(self, model: keras.Model, data: Any):
        self._batches = CalibrationData(model, data)
        self._model = model
        self._layers = _normalizations(model)
        self._forward = _training_pass(model)

    def __call__(self) -> None:
        """Sets the statistics."""
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
        """Size, and means and variances of every layer, of one batch after another."""
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
    """The layers whose statistics training moves."""
    calls = Counter(
        node.operation
        for node in flat_nodes(model)
        if isinstance(node.operation, keras.layers.BatchNormalization) and node.operation.trainable
    )
    shared = [layer.name for layer, count in calls.items() if count > 1]
    if shared:
        raise ValueError(
            "Statistics can be re-estimated of layers that are called once: of several calls those "
            f"of the last would be left. Freeze such layers first. Received: {shared}"
        )
    return list(calls)


def _training_pass(model: keras.Model) -> Callable[[list[Array]], Any]:
    """The layers of the model in training, for a list of arrays."""
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
    """Without momentum, the running statistics behind a batch are those of that batch."""
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
    """Variables as they were: the seeds of a quantizer, say."""
    values = [ops.convert_to_numpy(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _double(variable: keras.Variable) -> Array:
    return np.asarray(ops.convert_to_numpy(variable), np.float64)
