"""Learned steps that are the same number everywhere: eager, compiled, on every backend.

`2**exponent` of a float exponent differs in its last bit between backends, which can change the
code of a value at a tie. So exponents are multiples of 1/256: `2**(n / 256)` is an entry of a table
of 256 float32 constants, whose exponent field is raised by the octave. Neighbouring entries are
0.27 % apart.

The table is our own. GDNSQ (arXiv 2508.14004) computes the power.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.tensors import Tensor

STEPS_PER_OCTAVE = 256
_INDEX_BITS = 8
_MANTISSA_BITS = 23
LARGEST_EXPONENT = 60
_FRACTIONS = (2.0 ** (np.arange(STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE)).astype(np.float32)
_FRACTION_BITS = _FRACTIONS.view(np.int32)


def table_index(log_value: Tensor) -> Tensor:
    """`n = round(256 * log_value)`, int32, clamped to `+-60 * 256`.

    >>> int(table_index(-1.5))
    -384
    """
    end = float(LARGEST_EXPONENT * STEPS_PER_OCTAVE)
    index = ops.round(ops.convert_to_tensor(log_value, "float32") * STEPS_PER_OCTAVE)
    return ops.cast(ops.clip(index, -end, end), "int32")


def table_value(index: Tensor) -> Tensor:
    """`2**(index / 256)` from the table: float32, exact for whole exponents, without gradient.

    The difference of two indices of `table_index` is the index of the ratio of their values.

    >>> [float(v) for v in table_value([-256, 0, 384])]
    [0.5, 1.0, 2.8284270763397217]
    """
    index = ops.convert_to_tensor(index, "int32")
    octave = ops.right_shift(index, _INDEX_BITS)
    fraction = _fraction_bits(ops.bitwise_and(index, STEPS_PER_OCTAVE - 1))
    return ops.view(fraction + ops.left_shift(octave, _MANTISSA_BITS), "float32")


def _fraction_bits(entry: Tensor) -> Tensor:
    if keras.backend.backend() != "tensorflow":
        return ops.take(_FRACTION_BITS, entry)
    import tensorflow as tf

    return tf.gather(_FRACTION_BITS, entry)  # ops.take checks for negative entries: 16 more nodes


def learned_step(log_scale: Tensor) -> Tensor:
    """The step of a trained logarithm: `table_value(table_index(log_scale))`, without gradient.

    >>> float(learned_step(-0.999))
    0.5
    """
    return table_value(table_index(log_scale))


@custom_gradient
def snapped_log(log_value: Tensor) -> Any:
    """`round(256 * log_value) / 256`: the logarithm of an entry of the table.

    Backward: `dlog_value = g`, straight through.

    >>> float(snapped_log(-0.999))
    -1.0
    """
    snapped = ops.cast(table_index(log_value), "float32") / STEPS_PER_OCTAVE
    return snapped, lambda upstream: (upstream,)
