"""Sizes that are planned are those that files have."""

import numpy as np
import pytest

from keras_qat.integer.storage_sizes import (
    MAX_INDEX_BITS,
    packed_bytes,
    planned_weight_bytes,
    values_on_grid,
)
from tflite_export.file.lookup_table import encode


def weights_of_all_codes(bits: int, channels: int) -> np.ndarray:
    """Every code of the grid in every channel, four times."""
    largest = max(1, 2 ** (bits - 1) - 1)
    codes = np.array([-1, 1]) if bits == 1 else np.arange(-largest, largest + 1)
    return np.tile(codes, (channels, 4)).astype(np.int8)


@pytest.mark.parametrize("bits", range(1, MAX_INDEX_BITS + 1))
def test_a_planned_table_is_the_table_of_weights_that_use_all_codes(bits):
    weights = weights_of_all_codes(bits, channels=8)
    assert weights.shape[1] == 4 * values_on_grid(bits)
    indices, tables = encode(weights, axis=0)
    written = min(weights.size, indices.nbytes + tables.nbytes)
    assert planned_weight_bytes(weights.size, 8, bits) == written


def test_weights_of_eight_bits_are_planned_as_they_are():
    assert planned_weight_bytes(10_000, 4, 8) == 10_000


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 1), (2, 1), (3, 2)])
def test_two_int4_share_a_byte(count, size):
    assert packed_bytes(count, bits=4) == size


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_four_int2_share_a_byte(count, size):
    assert packed_bytes(count, bits=2) == size
