"""Losses under `tf.distribute`, where each replica sees its part of a batch."""

from __future__ import annotations

from typing import Any

import keras

Tensor = Any


def replica_count() -> int:
    """How many replicas train together, in whose name this code runs; 1 without a strategy.

    >>> replica_count()
    1
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_share(loss: Tensor) -> Tensor:
    """The part of a loss that one replica adds: gradients are summed over all of them.

    Keras hands `compute_loss` and returns from it losses that are divided so.
    """
    count = replica_count()
    return loss if count == 1 else loss / count


def whole_loss(share: Tensor) -> Tensor:
    """The loss of which `share` is this replica's part."""
    count = replica_count()
    return share if count == 1 else share * count
