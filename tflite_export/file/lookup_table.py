"""Lookup tables: weights as packed indices, which TensorFlow Lite Micro decodes on the device.

The operator `TFLM_DECODE` reads two uint8 tensors and writes the int8 weights to the arena:

* Indices of `bits` bits each, in the order of the weights. The first index is in the highest bits
  of the first byte. The last byte is filled with zeros.
* Tables: a header of 16 bytes, then for each channel the int8 values that an index stands for.
  Every table is as long as the longest.

These bytes of the header are set, and all others are 0:

* 0: the kind (0 is a lookup table).
* 1: the version of the header (1).
* 4: the version of the table (1).
* 5: the channel axis in the high four bits, and `bits` in the low four.
* 6: the length of a table.

The channel axis is the first or the last one. Weights with one scale have one table for all
channels, as the operator counts the scales. Their axis in the header is the first one.

Source: the design of TensorFlow Lite Micro's DECODE operator (2025), as its Python package of
November 2026 writes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.storage_sizes import (
    MAX_INDEX_BITS,
    TABLE_HEADER_BYTES,
    bits_of_index,
    lookup_bytes,
    most_values,
)

Int8Array = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

DECODE_OPERATOR = "TFLM_DECODE"
_HEADER_VERSION = _TABLE_VERSION = 1


def index_bits(values: npt.NDArray[Any], axis: int | None) -> int:
    """The bits of an index into the different values of a table, at least 1.

    >>> index_bits(np.int8([[-64, 64, 64], [1, 2, 3]]), axis=0)
    2
    """
    return bits_of_index(most_values(values, axis))


def encoded_bytes(values: npt.NDArray[Any], axis: int | None) -> int:
    """The bytes of the indices and the tables together.

    >>> encoded_bytes(np.int8([[-64, 64, 64], [1, 2, 3]]), axis=0)  # 2 + 16 + 2 * 3
    24
    """
    tables = 1 if axis is None else values.shape[axis]
    return lookup_bytes(values.size, tables, most_values(values, axis))


def encode(values: Int8Array, axis: int | None) -> tuple[Bytes, Bytes]:
    """Encodes weights as `(indices, tables)`, with one table for each channel of `axis`.

    If `axis` is `None`, there is one table.

    Raises:
        ValueError: a channel has more than 128 different values, or `axis` is neither the first
            nor the last.

    >>> indices, tables = encode(np.int8([[-64, 64, 64], [1, 2, 3]]), axis=0)
    >>> indices.tolist(), tables[16:].tolist()
    ([20, 96], [192, 64, 0, 1, 2, 3])
    >>> encode(np.int8([[-64, 1], [1, -64]]), axis=None)[1][16:].tolist()
    [192, 1]
    """
    if axis is None:
        return encode(values.reshape(1, -1), axis=0)
    if axis not in (0, values.ndim - 1):
        raise ValueError(f"The channel axis must be the first or the last. Received: axis={axis}")
    bits = index_bits(values, axis)
    if bits > MAX_INDEX_BITS:
        raise ValueError(
            f"A channel may have at most {1 << MAX_INDEX_BITS} different values. Received: more"
        )
    channels = np.moveaxis(values, axis, 0)
    found = [np.unique(channel, return_inverse=True) for channel in channels]
    length = max(table.size for table, _ in found)
    indices = np.stack([index.reshape(channels.shape[1:]) for _, index in found])
    tables = np.stack([np.pad(table, (0, length - table.size)) for table, _ in found])
    header = np.zeros(TABLE_HEADER_BYTES, np.uint8)
    header[[1, 4, 5, 6]] = _HEADER_VERSION, _TABLE_VERSION, axis << 4 | bits, length
    packed = _packed(np.moveaxis(indices, 0, axis), bits)
    return packed, np.concatenate([header, tables.astype(np.int8).view(np.uint8).ravel()])


def decode(
    indices: Bytes, tables: Bytes, shape: tuple[int, ...], one_table: bool = False
) -> Int8Array:
    """Decodes weights of `shape`.

    Args:
        indices, tables: what `encode` returned.
        shape: the shape of the weights.
        one_table: whether all channels have one table.

    Raises:
        ValueError: the table has another kind or version, or its bytes do not fit the shape.

    >>> decode(*encode(np.int8([[-64, 64, 64], [1, 2, 3]]), axis=0), (2, 3)).tolist()
    [[-64, 64, 64], [1, 2, 3]]
    """
    if one_table:
        return decode(indices, tables, (1, int(np.prod(shape)))).reshape(shape)
    header, content = tables[:TABLE_HEADER_BYTES], tables[TABLE_HEADER_BYTES:].view(np.int8)
    if header.size < TABLE_HEADER_BYTES or header[[0, 1, 4]].tolist() != [0, 1, 1]:
        raise ValueError(f"Not a lookup table of version 1. Received: header {header.tolist()}")
    axis, bits, length = int(header[5] >> 4), int(header[5] & 15), int(header[6])
    channels, count = shape[axis] if axis < len(shape) else 0, int(np.prod(shape))
    if content.size != channels * length or indices.size * 8 < count * bits:
        raise ValueError(
            f"The lookup table's bytes do not fit weights of shape {shape}. "
            f"Received: {indices.size} bytes of indices, {content.size} of tables"
        )
    flags = np.unpackbits(indices)[: count * bits].reshape(count, bits)
    index = (flags @ (1 << np.arange(bits)[::-1])).reshape(shape)
    outer = np.moveaxis(index, axis, 0).reshape(channels, -1)
    values = np.take_along_axis(content.reshape(channels, length), outer, axis=1)
    inner = (*shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(values.reshape(channels, *inner), 0, axis)


def _packed(indices: npt.NDArray[Any], bits: int) -> Bytes:
    flags = indices.reshape(-1, 1) >> np.arange(bits)[::-1] & 1
    return np.packbits(flags.astype(np.uint8))
