"""How many bytes integers take in a file.

A file stores weights as int8, as INT4 or INT2 (two or four in a byte), or as a lookup table: packed
indices, and for each channel a table of the values that the indices stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BIAS_BYTES = 4
"""The bytes of one int32 bias."""
TABLE_HEADER_BYTES = 16
MAX_INDEX_BITS = 7
"""Indices of 8 bits would save nothing over int8."""
INT4_MIN, INT4_MAX = -8, 7
PACKED_BITS = {"int4": 4, "int2": 2}
"""The bits of a number, by dtype: a byte holds several of these."""
STORED_MAX = {"int8": 127, "int4": INT4_MAX, "int2": 1}
"""The largest weight that a dtype holds. INT4 and INT2 also hold one less than its negative."""


def int8_bytes(count: int) -> int:
    """The bytes of `count` int8 numbers: one each."""
    return count


def packed_bytes(count: int, bits: int) -> int:
    """The bytes of `count` numbers of `bits` bits each, the last byte filled up.

    >>> packed_bytes(5, bits=4), packed_bytes(5, bits=2)
    (3, 2)
    """
    return -(-count * bits // 8)


def bias_bytes(channels: int) -> int:
    """The bytes of the biases of `channels` channels."""
    return BIAS_BYTES * channels


def lookup_bytes(count: int, channels: int, values: int) -> int:
    """The bytes of the indices and the tables together.

    Args:
        count: number of weights.
        channels: number of tables.
        values: number of values in a table.

    >>> lookup_bytes(count=6, channels=2, values=3)  # 6 indices of 2 bits, a header, two tables
    24
    """
    return -(-count * bits_of_index(values) // 8) + TABLE_HEADER_BYTES + channels * values


def bits_of_index(values: int) -> int:
    """The bits of an index into `values` values, at least 1.

    >>> [bits_of_index(values) for values in (1, 2, 3, 4, 5, 128)]
    [1, 1, 2, 2, 3, 7]
    """
    return max(1, (values - 1).bit_length())


def values_on_grid(bits: int) -> int:
    """The number of values of a weight of `bits` bits.

    One bit has the values -1 and 1. Other grids leave out the lowest code of `bits` bits.

    >>> [values_on_grid(bits) for bits in (1, 2, 3, 8)]
    [2, 3, 7, 255]
    """
    return 2 if bits == 1 else 2**bits - 1


def planned_weight_bytes(count: int, channels: int, bits: int) -> int:
    """The bytes of int8 or of lookup tables, the smaller, for weights that are not known yet.

    >>> planned_weight_bytes(count=1000, channels=10, bits=2), planned_weight_bytes(1000, 10, 8)
    (296, 1000)
    """
    values = values_on_grid(bits)
    if bits_of_index(values) > MAX_INDEX_BITS:
        return int8_bytes(count)
    return min(int8_bytes(count), lookup_bytes(count, channels, values))


def most_values(weights: npt.NDArray[Any], axis: int | None) -> int:
    """The largest number of different values in a channel; in all of them if `axis` is `None`.

    >>> most_values(np.int8([[-64, 64, 64], [1, 2, 3]]), axis=0)
    3
    >>> most_values(np.int8([[-64, 64, 64], [1, 2, 3]]), axis=None)
    5
    """
    if axis is None:
        return int(np.unique(weights).size)
    channels = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    return max(int(np.unique(channel).size) for channel in channels)


def fits(values: npt.NDArray[Any], dtype: str) -> bool:
    """Whether all values fit in INT4 or INT2.

    >>> fits(np.int8([-8, 7]), "int4"), fits(np.int8([8]), "int4"), fits(np.int8([-2, 1]), "int2")
    (True, False, True)
    """
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return low >= -STORED_MAX[dtype] - 1 and high <= STORED_MAX[dtype]
