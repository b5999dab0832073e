"""The flatbuffer itself: alignment, shared buffers, names, and a batch that can be resized."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated

from keras_qat.integer import run
from tests.tflite_export.graphs import random_codes, small_network
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.runtimes import run_litert
from tflite_export.file.writer import SIGNATURE, read_model, write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import DESCRIPTION, emit_model
from tflite_export.targets import get_target


@pytest.fixture(scope="module")
def data() -> bytes:
    return write_model(emit_model(legalize(small_network(), get_target("litert"))))


def buffer_offsets(data):
    """Where the data of each non-empty buffer starts, in bytes from the start of the file."""
    file = schema_py_generated.Model.GetRootAs(data)
    buffers = (file.Buffers(i) for i in range(file.BuffersLength()))
    return [each._tab.Vector(each._tab.Offset(4)) for each in buffers if each.DataLength()]


def test_every_buffer_starts_at_a_multiple_of_16(data):
    offsets = buffer_offsets(data)
    assert len(offsets) > 10
    assert [offset % 16 for offset in offsets] == [0] * len(offsets)


@pytest.mark.parametrize("size", [1, 3, 15, 16, 17, 1000])
def test_alignment_holds_for_odd_sizes(size):
    constants = {
        f"c{i}": FileTensor(f"c{i}", (size + i,), "int8", data=np.full(size + i, i, np.int8))
        for i in range(5)
    }
    model = FileModel("odd", constants, (), {}, {})
    written = write_model(model)
    assert [offset % 16 for offset in buffer_offsets(written)] == [0] * 5
    for name, tensor in read_model(written).tensors.items():
        np.testing.assert_array_equal(tensor.data, constants[name].data)


def test_what_is_written_is_what_is_read(data):
    expected = emit_model(legalize(small_network(), get_target("litert")))
    actual = read_model(data)
    assert actual.description == DESCRIPTION
    assert dict(actual.inputs) == dict(expected.inputs)
    assert dict(actual.outputs) == dict(expected.outputs)
    assert list(actual.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        read = actual.tensors[name]
        assert (read.shape, read.dtype, read.zero_point) == (
            tensor.shape,
            tensor.dtype,
            tensor.zero_point,
        )
        assert (read.axis, read.resizable) == (tensor.axis, tensor.resizable)
        np.testing.assert_array_equal(read.scale, tensor.scale.reshape(-1))
        if tensor.data is not None:
            np.testing.assert_array_equal(read.data, tensor.data)
    for written, read in zip(expected.operators, actual.operators, strict=True):
        assert (read.code, read.version, read.inputs, read.outputs) == (
            written.code,
            written.version,
            written.inputs,
            written.outputs,
        )
        assert {**read.fields, **written.fields} == read.fields


def test_equal_constants_share_a_buffer():
    values = np.arange(64, dtype=np.int8)
    tensors = {name: FileTensor(name, (64,), "int8", data=values) for name in "ab"}
    assert len(buffer_offsets(write_model(FileModel("twins", tensors, (), {}, {})))) == 1


def test_the_first_buffer_is_empty(data):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data)
    assert model.Version() == 3
    assert model.Buffers(0).DataLength() == 0


def test_an_operator_code_is_listed_once():
    tensors = {name: FileTensor(name, (1, 2), "int8") for name in "abc"}
    operators = tuple(
        FileOperator("SOFTMAX", 2, (x,), (y,), "SoftmaxOptions", {"beta": 1.0})
        for x, y in ("ab", "bc")
    )
    from ai_edge_litert import schema_py_generated as schema

    data = write_model(FileModel("chain", tensors, operators, {"a": "a"}, {"c": "c"}))
    assert schema.Model.GetRootAs(data).OperatorCodesLength() == 1


def test_foreign_bytes_are_refused():
    with pytest.raises(ValueError, match="Not a TFLite file"):
        read_model(b"PK\x03\x04 something else")


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_the_batch_can_be_resized(data, reference, batch):
    graph = legalize(small_network(), get_target("litert")).graph
    codes = random_codes(graph, samples=batch)
    expected = run(graph, codes, "litert_ref" if reference else "xnnpack")
    actual = run_litert(data, read_model(data), codes, reference)
    for name in graph.outputs:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_the_signature_runs_by_name(data):
    from ai_edge_litert.interpreter import Interpreter

    graph = legalize(small_network(), get_target("litert")).graph
    runner = Interpreter(model_content=data).get_signature_runner(SIGNATURE)
    codes = random_codes(graph, samples=1)
    actual = runner(**codes)
    expected = run(graph, codes, "xnnpack")
    assert set(actual) == set(graph.outputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(actual[name], expected[name])
