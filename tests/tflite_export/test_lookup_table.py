"""Lookup tables: decoded is what was encoded, byte for byte as TFLM's own tool writes it."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tflite_export.file.lookup_table import decode, encode, encoded_bytes, index_bits

codebooks = st.lists(st.integers(-127, 127), min_size=1, max_size=128, unique=True)


@st.composite
def weights(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Weights of 1 to 4 axes whose channels, along an outer axis, have few values."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=7))
    values = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from(draw(codebooks))))
    return values, draw(st.sampled_from([0, len(shape) - 1]))


@given(weights())
def test_decoded_weights_are_the_encoded_ones(case):
    values, axis = case
    indices, tables = encode(values, axis)
    assert indices.dtype == tables.dtype == np.uint8
    assert indices.size == -(-values.size * index_bits(values, axis) // 8)
    assert indices.size + tables.size == encoded_bytes(values, axis)
    np.testing.assert_array_equal(decode(indices, tables, values.shape), values)


@given(weights())
def test_bytes_are_those_of_the_tool_of_tflm(case):
    pytest.importorskip("tflite_micro", reason="the extra keras_qat[tflm] is not installed")
    from tflite_micro.tensorflow.lite.micro.compression import lut, model_editor, spec
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    values, axis = case
    tensor = model_editor.Tensor(
        shape=values.shape, dtype=schema.TensorType.INT8, data=values.tobytes()
    )
    method = spec.LookUpTableCompression(
        index_bitwidth=index_bits(values, axis), mode=spec.PerChannel(axis=axis)
    )
    expected = lut.LutCompressor().compress(tensor, method)
    indices, tables = encode(values, axis)
    assert indices.tobytes() == expected.encoded_data
    assert tables.tobytes() == expected.ancillary_data


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7)])
def test_bits_number_the_values_of_the_richest_channel(count, bits):
    values = np.stack([np.arange(count), np.zeros(count)]).astype(np.int8)
    assert index_bits(values, axis=0) == bits


def test_more_than_128_values_are_refused():
    with pytest.raises(ValueError, match="128 different values"):
        encode(np.arange(-64, 65, dtype=np.int8).reshape(1, -1), axis=0)


def test_an_inner_axis_is_refused():
    with pytest.raises(ValueError, match=r"first or the last\. Received: axis=1"):
        encode(np.zeros((2, 3, 4), np.int8), axis=1)


@pytest.mark.parametrize("byte", [0, 1, 4])
def test_another_kind_or_version_is_refused(byte):
    indices, tables = encode(np.int8([[1, 2]]), axis=0)
    tables[byte] += 1
    with pytest.raises(ValueError, match="Not a lookup table of version 1"):
        decode(indices, tables, (1, 2))


@pytest.mark.parametrize(("cut_indices", "cut_tables"), [(1, 0), (0, 1), (0, 10)])
def test_missing_bytes_are_noticed(cut_indices, cut_tables):
    indices, tables = encode(np.arange(12, dtype=np.int8).reshape(2, 6), axis=0)
    indices = indices[: indices.size - cut_indices]
    with pytest.raises(ValueError, match=r"(bytes do not fit|Not a lookup table)"):
        decode(indices, tables[: tables.size - cut_tables], (2, 6))
