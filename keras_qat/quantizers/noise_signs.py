"""The random signs in GDNSQ's gradient of a step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

_COINS_IN_A_WORD = 16


def random_noise_sign(shape: tuple[int, ...], seed: Any = None) -> Tensor:
    """Independent fair draws from {-1/2, +1/2}, float32: `r` in the gradient of a step.

    A drawn number gives as many signs as it has bits: this costs a third of a draw for each.

    Args:
        shape: of the tensor that is quantized; its last size is a number.
        seed: an integer, or a `keras.random.SeedGenerator` for fresh draws at every call.

    >>> sorted({float(v) for v in random_noise_sign((64,), seed=0)})
    [-0.5, 0.5]
    """
    *leading, channels = shape
    words = -(-channels // _COINS_IN_A_WORD)
    coins = keras.random.randint((*leading, words, 1), 0, 1 << _COINS_IN_A_WORD, seed=seed)
    heads = ops.bitwise_and(coins, 1 << np.arange(_COINS_IN_A_WORD, dtype=np.int32)) > 0
    signs = ops.reshape(ops.where(heads, 0.5, -0.5), (*leading, words * _COINS_IN_A_WORD))
    return signs if words * _COINS_IN_A_WORD == channels else signs[..., :channels]
