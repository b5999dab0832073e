"""Losses under `tf.distribute`, where each replica sees a part of the batch."""

from __future__ import annotations

import keras

from keras_qat.tensors import Tensor


def replica_count() -> int:
    """The number of replicas in the current strategy; 1 without a strategy.

    >>> replica_count()
    1
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_share(loss: Tensor) -> Tensor:
    """The share of a loss that one replica adds: `loss / replicas`.

    Gradients are summed over all replicas. The losses that `compute_loss` of Keras gets and returns
    are such shares.
    """
    count = replica_count()
    return loss if count == 1 else loss / count


def whole_loss(share: Tensor) -> Tensor:
    """The whole loss of a replica's share: `share * replicas`."""
    count = replica_count()
    return share if count == 1 else share * count
