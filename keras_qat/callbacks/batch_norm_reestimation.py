"""`BatchNormReestimation`: running statistics for the weights that are evaluated."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.callbacks.backend_state import synchronize
from keras_qat.training.batch_normalization import Reestimation


class BatchNormReestimation(keras.callbacks.Callback):
    """Calls `keras_qat.reestimate_batch_normalization` before every validation of `fit`.

    Without validation data it does so at the end of every epoch. So validation metrics, the
    checkpoints of `ModelCheckpoint`, and the model at the end of `fit` have the statistics of their
    weights. Put this callback in front of callbacks that save the model. Training itself does not
    change. An epoch costs one more forward pass for each batch of `data`.

    Source: see `keras_qat.reestimate_batch_normalization`.

    Args:
        data: see `keras_qat.reestimate_batch_normalization`; a few thousand training samples.

    Raises:
        ValueError: when `fit` starts, see `keras_qat.reestimate_batch_normalization`.

    >>> import numpy as np
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
        self._reestimation = Reestimation(self.model, self._data)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._is_due = True

    def on_test_begin(self, logs: Any = None) -> None:
        self._reestimate()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._reestimate()

    def on_train_end(self, logs: Any = None) -> None:
        self._reestimation = None  # frees the batches and the traced model

    def _reestimate(self) -> None:
        if self._reestimation is None or not self._is_due:
            return
        synchronize(self.model)
        self._reestimation()
        self._is_due = False
