"""`EWGSSchedule`: sets the scaling factor of EWGS from the curvature of the loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.callbacks.hessian_trace import hessian_traces
from keras_qat.model import QuantizedModel
from keras_qat.training.backend_state import restored

Batches = list[tuple[Any, Any]]


class EWGSSchedule(keras.callbacks.Callback):
    """Sets `delta` of every EWGS quantizer from the curvature of the loss, every few epochs.

    EWGS adds `-delta * |g| * e` to the gradient. This stands for `H * (x - x_hat)`, the change of
    the gradient between the rounded value and the value itself. So
    `delta = max(0, step * (Tr(H) / N) / (3 * std(g)))` for each tensor, in steps, as a mean over
    the given batches. Three deviations stand for the typical largest gradient. Before the first
    update `delta` is 0, which is straight through. Each `delta` is a variable of the model.

    An update costs about `2 * probes` training steps for each batch, run eagerly, on TensorFlow.

    Source: Lee et al. 2021 (arXiv 2104.00903) and its published code, whose figures are the
    defaults. That code draws probes for one tensor at a time. Here all tensors share the probes.

    Args:
        x, y: inputs and targets of a few batches of the training data.
        batch_size: the size of a batch.
        every: the epochs between two updates.
        start: the epochs before the first update.
        probes: the largest number of random vectors for each batch.

    Raises:
        ValueError: no data, or a number below 1 (`start`: below 0). When `fit` starts: a model
            without a quantizer whose estimator is "ewgs".

    >>> EWGSSchedule(np.zeros((6, 2)), np.zeros(6), batch_size=2, every=5).every
    5
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        batch_size: int = 128,
        every: int = 10,
        start: int = 10,
        probes: int = 50,
    ):
        super().__init__()
        if len(x) == 0 or len(x) != len(y):
            raise ValueError(
                f"EWGSSchedule needs as many targets as inputs. Received: {len(x)} and {len(y)}"
            )
        if min(batch_size, every, probes) < 1 or start < 0:
            raise ValueError(
                "batch_size, every and probes must be 1 or more, and start 0 or more. "
                f"Received: {batch_size}, {every}, {probes}, {start}"
            )
        self.every = every
        self.start = start
        self._probes = probes
        firsts = range(0, len(x), batch_size)
        self._batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in firsts]

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        quantizers = model.quantizers if isinstance(model, QuantizedModel) else []
        self._quantizers = [each for each in quantizers if "delta" in each.estimator_options]
        if not self._quantizers:
            raise ValueError(
                "EWGSSchedule needs a model with estimator='ewgs'. Received: "
                f"{type(model).__name__} {model.name!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch < self.start:
            self._assign(np.zeros(len(self._quantizers)))
        elif (epoch - self.start) % self.every == 0:
            self._assign(self._deltas())

    def _deltas(self) -> np.ndarray:
        found = []
        # A forward pass in training changes running averages and seeds, and its loss is logged.
        with restored([*self.model.variables, *self.model.metrics_variables]):
            for seed, (x, y) in enumerate(self._batches):
                traces, deviations = hessian_traces(
                    self.model, self._quantizers, x, y, self._probes, seed=seed
                )
                found.append(traces / np.maximum(3.0 * deviations, 1e-30))
        steps = [float(np.mean(ops.convert_to_numpy(each.step))) for each in self._quantizers]
        return np.asarray(np.maximum(0.0, np.mean(found, axis=0) * steps))

    def _assign(self, deltas: np.ndarray) -> None:
        for quantizer, delta in zip(self._quantizers, deltas, strict=True):
            quantizer.estimator_options["delta"].assign(delta)
