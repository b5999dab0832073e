"""`reestimate_batch_normalization`: running statistics for the current weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import flat_nodes, graph_between
from keras_qat.keras_moments import captured_moments
from keras_qat.keras_optimizer_slots import averages_weights
from keras_qat.training.backend_state import restored, synchronize

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
    changes. Training does not read the running statistics, so it goes on unchanged. A layer that is
    called several times gets the averages over its calls.

    Source: Wu and Johnson 2021 (arXiv 2105.07576), "precise" statistics; Nagel et al. 2022 (arXiv
    2203.11086) for quantized networks, whose weights oscillate.

    Args:
        model: any built Functional, Sequential or quantized model.
        data: as for calibration: an array of samples, a dict or list of arrays for several inputs,
            or an iterable of batches such as a `tf.data.Dataset`. Use a few thousand training
            samples, with the augmentation and the batch size of training.

    Raises:
        ValueError: no samples, shapes that do not fit the model, or values that are not finite.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> reestimate_batch_normalization(model, np.float32([[1.0], [3.0]]))
    >>> [float(statistic[0]) for statistic in model.layers[0].non_trainable_variables]
    [2.0, 1.0]
    """
    Reestimation(model, CalibrationData(model, data))()


class Reestimation:
    """A repeated re-estimation: it keeps the batches and the compiled model.

    Args:
        model: see `reestimate_batch_normalization`.
        batches: the inputs of the model, as lists of arrays.
    """

    def __init__(self, model: keras.Model, batches: Iterable[list[Array]]):
        self._batches = batches
        self._model = model
        self._layers = trained_normalizations(model)
        self._moments = _moments_of(model, self._layers)

    def __call__(self) -> None:
        """Sets the running statistics."""
        if not self._layers:
            return
        found = list(self._statistics())
        sizes = [size for size, _ in found]
        for layer, *calls in zip(self._layers, *(moments for _, moments in found), strict=True):
            if not calls[0]:
                continue  # the model does not call the layer
            mean, variance = np.moveaxis(np.asarray(calls, np.float64), 2, 0)  # (batches, calls, c)
            overall = np.average(mean.mean(axis=1), axis=0, weights=sizes)
            spread = np.square(mean - overall) + variance
            layer.moving_mean.assign(overall)
            layer.moving_variance.assign(np.average(spread.mean(axis=1), axis=0, weights=sizes))

    def _statistics(self) -> Iterator[tuple[int, list[Any]]]:
        """For each batch, its size, and for every layer the mean and the variance of each call."""
        with restored(self._model.non_trainable_variables):
            for quantizer in getattr(self._model, "replaced_quantizers", {}).values():
                quantizer.replaced_share.assign(1.0)
            for batch in self._batches:
                moments = self._moments(batch)
                yield len(batch[0]), keras.tree.map_structure(ops.convert_to_numpy, moments)


class BatchNormReestimation(keras.callbacks.Callback):
    """Calls `keras_qat.reestimate_batch_normalization` before every validation of `fit`.

    Without validation data it does so at the end of every epoch, and once more at the end of `fit`.
    So validation metrics, the checkpoints of `ModelCheckpoint`, and the model at the end of `fit`
    have the statistics of their weights. Training itself does not change. An epoch costs one more
    forward pass for each batch of `data`.

    `fit` of a quantized model with tensors of 2 bits or less does so without this callback, on
    4,096 samples of its training data (`QuantizedModel.fit`). With it, put it in front of callbacks
    that save the model, and behind `keras.callbacks.SwapEMAWeights`, which changes the weights.

    Source: see `keras_qat.reestimate_batch_normalization`.

    Args:
        data: see `keras_qat.reestimate_batch_normalization`; a few thousand training samples.

    Raises:
        ValueError: when `fit` starts, see `keras_qat.reestimate_batch_normalization`.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> model.compile("sgd", "mse")
    >>> x = np.float32([[1.0], [3.0]])
    >>> history = model.fit(x, x, verbose=0, callbacks=[BatchNormReestimation(x)])
    >>> float(model.layers[0].moving_mean[0])
    2.0
    """

    def __init__(self, data: Any):
        super().__init__()
        self._data = data
        self._reestimation: Reestimation | None = None
        self._is_due = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._reestimation = Reestimation(self.model, self._batches())
        self._is_due = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._is_due = True

    def on_test_begin(self, logs: Any = None) -> None:
        self._reestimate()

    def on_test_end(self, logs: Any = None) -> None:
        if averages_weights(self.model.optimizer):
            self._is_due = True  # SwapEMAWeights puts other weights in the model

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._reestimate()

    def on_train_end(self, logs: Any = None) -> None:
        self._is_due = True  # other callbacks may have changed weights
        self._reestimate()
        self._reestimation = None  # frees the batches and the compiled model

    def _batches(self) -> Iterable[list[Array]]:
        return CalibrationData(self.model, self._data)

    def _reestimate(self) -> None:
        if self._reestimation is None or not self._is_due:
            return
        synchronize(self.model)
        self._reestimation()
        self._is_due = False


class ReestimationInFit(BatchNormReestimation):
    """The re-estimation that `fit` of a quantized model adds, on batches of its own."""

    def __init__(self, batches: list[list[Array]]):
        super().__init__(None)
        self._own = batches

    def on_train_end(self, logs: Any = None) -> None:
        """Nothing yet: `fit` calls `finish` after the last callback."""

    def finish(self) -> None:
        """Re-estimates once more, as callbacks may have changed grids at the end of training."""
        super().on_train_end()

    def _batches(self) -> Iterable[list[Array]]:
        return self._own


def trained_normalizations(model: keras.Model) -> list[Any]:
    """The BatchNormalization layers whose running statistics training updates."""
    found = (node.operation for node in flat_nodes(model))
    return [
        layer
        for layer in dict.fromkeys(found)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def _moments_of(model: keras.Model, layers: Sequence[Any]) -> Callable[[list[Array]], list[Any]]:
    """A compiled function: a batch -> for each layer, the moments of its calls in training mode."""
    network = graph_between(model.inputs, model.outputs)
    backend = keras.backend.backend()

    def moments(batch: list[Any]) -> list[Any]:
        with captured_moments(layers) as found:
            network(batch, training=True)
        return found

    if backend == "tensorflow":
        import tensorflow as tf

        traced: Callable[[list[Array]], list[Any]] = tf.function(
            moments, autograph=False, reduce_retracing=True
        )
        return traced
    if backend != "jax":
        return moments
    import jax

    @jax.jit
    def pure(trained: list[Any], others: list[Any], batch: list[Any]) -> list[Any]:
        with captured_moments(layers) as found:
            network.stateless_call(trained, others, batch, training=True)
        return found

    def compiled(batch: list[Array]) -> list[Any]:
        variables = network.trainable_variables, network.non_trainable_variables
        found: list[Any] = pure(*([each.value for each in some] for some in variables), batch)
        return found

    return compiled
