"""Metrics for outputs that are rounded to codes, where many scores are equal."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.tensors import Tensor

__all__ = ["TopKAccuracy"]


@keras.saving.register_keras_serializable(package="keras_qat")
class TopKAccuracy(keras.metrics.MeanMetricWrapper):
    """How often the label is among the `k` best classes, where equal scores rank by their class.

    `keras.metrics.TopKCategoricalAccuracy` counts every class that equals the last of the best as a
    hit. A softmax in integers has 256 values, and most of 1,000 classes are 0 there: all of them
    would be hits. Here, as in `np.argsort(-scores, kind="stable")`, the lower class comes first.

    Args:
        k: how many classes count.
        name: the name in logs.
        dtype: the type of the mean.

    Labels are classes, `(batch,)` or `(batch, 1)`, or of the shape of the scores,
    `(batch, classes)`: then the class with the largest one.

    >>> metric = TopKAccuracy(k=2)
    >>> float(metric([3, 1], [[0.5, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]))
    0.5
    """

    def __init__(self, k: int = 5, name: str = "top_k_accuracy", dtype: Any = None):
        super().__init__(top_k_hits, name=name, dtype=dtype, k=k)
        self.k = k
        self._direction = "up"

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k, "name": self.name, "dtype": self.dtype}


def top_k_hits(labels: Tensor, scores: Tensor, k: int = 5) -> Tensor:
    """1 for each example whose label is among the `k` best classes, else 0.

    >>> [float(hit) for hit in top_k_hits([2, 0], [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]], k=2)]
    [0.0, 1.0]
    """
    scores, labels = ops.convert_to_tensor(scores), ops.convert_to_tensor(labels)
    if len(labels.shape) == len(scores.shape):
        one_for_each = labels.shape[-1] == 1 != scores.shape[-1]
        labels = ops.squeeze(labels, -1) if one_for_each else ops.argmax(labels, axis=-1)
    _, best = ops.top_k(scores, k)
    hits = ops.equal(best, ops.expand_dims(ops.cast(labels, best.dtype), -1))
    return ops.cast(ops.any(hits, axis=-1), "float32")
