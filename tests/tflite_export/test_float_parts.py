"""Layers in float within a file: what is found, what is refused, and what may be one step off."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qat.integer import QuantParams, ops
from tests.tflite_export.float_networks import difference_graph, weighted_graph
from tests.tflite_export.graphs import random_codes
from tflite_export import ExportError, VerificationError, export, verify
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.writer import read_model, write_model
from tflite_export.legal.legality import check_legal
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

GRAPH = difference_graph(
    0.7,
    QuantParams(np.float32(0.03)),
    QuantParams(np.float32(0.02), zero_point=5),
    QuantParams(np.float32(0.02)),
    (1, 8, 8, 4),
)


@pytest.fixture(scope="module")
def file() -> FileModel:
    return emit_model(legalize(GRAPH, get_target("litert")))


def test_the_part_stands_between_dequantize_and_quantize(file):
    codes = [op.code for op in file.operators]
    assert codes == ["DEQUANTIZE", "DEQUANTIZE", "MUL", "SUB", "QUANTIZE", "MAX_POOL_2D"]
    assert not any(tensor.resizable for tensor in file.tensors.values())
    assert [name for name in file.tensors if name.startswith("part/")] == [
        f"part/float/{index}" for index in range(5)
    ]


def test_a_changed_constant_inside_is_found(file):
    (name,) = (n for n, t in file.tensors.items() if t.data is not None)
    changed = dataclasses.replace(file.tensors[name], data=np.float32([0.8]))
    data = write_model(dataclasses.replace(file, tensors={**file.tensors, name: changed}))
    with pytest.raises(VerificationError, match="differs from the float part 'part'"):
        verify(GRAPH, data, "litert", random_codes(GRAPH))


def test_a_changed_operator_inside_is_found(file):
    operators = [
        dataclasses.replace(op, code="ADD", options="AddOptions") if op.code == "SUB" else op
        for op in file.operators
    ]
    data = write_model(dataclasses.replace(file, operators=tuple(operators)))
    with pytest.raises(VerificationError, match="no operator SUB of the float part 'part'"):
        verify(GRAPH, data, "litert", random_codes(GRAPH))


def moved(monkeypatch, elements: int, steps: int) -> None:
    """The interpreter computes that many elements of the part so many steps off."""
    evaluate = ops.FloatPart.evaluate

    def other(self, inputs, output, profile):
        values = evaluate(self, inputs, output, profile).astype(int)
        values.reshape(-1)[:elements] += np.where(values.reshape(-1)[:elements] > 0, -steps, steps)
        return values.astype(np.int8)

    monkeypatch.setattr(ops.FloatPart, "evaluate", other)


def test_few_single_steps_are_accepted_and_what_comes_behind_stays_exact(file, monkeypatch):
    moved(monkeypatch, elements=8, steps=1)
    for result in verify(GRAPH, write_model(file), "litert", random_codes(GRAPH, samples=64)):
        assert {tensor.name: tensor.differing for tensor in result.tensors} == {
            "part": 8,
            "pool": 0,
        }


@pytest.mark.parametrize(("elements", "steps"), [(1, 2), (64, 1)])
def test_more_is_refused(file, monkeypatch, elements, steps):
    moved(monkeypatch, elements, steps)
    with pytest.raises(VerificationError, match=f"'part': {elements} of .* up to {steps}"):
        verify(GRAPH, write_model(file), "litert", random_codes(GRAPH, samples=64))


def test_the_report_names_the_part(tmp_path):
    report = export(GRAPH, tmp_path / "net.tflite", verbose=False)
    (part,) = report.float_parts
    assert (part.name, part.layers, part.operators, part.stored_bytes) == (
        "part",
        ("mine", "yours"),
        2,
        4,
    )
    assert "In float32: mine, yours (2 operators, 4 bytes of constants)" in report.render()
    assert '"layers": [' in report.to_json()


def test_microcontrollers_get_none():
    with pytest.raises(ExportError, match=r"'mine', 'yours' compute.* 'tflm' runs integers alone"):
        check_legal(GRAPH, get_target("tflm"))


def test_a_grid_that_quantize_does_not_clamp_to_is_refused():
    narrow = QuantParams(np.float32(0.02), qmin=-100)
    grid = QuantParams(np.float32(0.02))
    with pytest.raises(ExportError, match="a clamp would be lost"):
        check_legal(difference_graph(1.0, grid, grid, narrow), get_target("litert"))


def test_bytes_that_are_no_file_are_refused():
    part = dataclasses.replace(GRAPH.ops[0], file=np.zeros(16, np.uint8))
    graph = dataclasses.replace(GRAPH, ops=(part, *GRAPH.ops[1:]))
    with pytest.raises(ExportError, match="'mine', 'yours' cannot be written"):
        check_legal(graph, get_target("litert"))


def test_an_operator_may_do_without_an_input():
    """A FULLY_CONNECTED of no bias says so with index -1."""
    weight = FileTensor("w", (3, 2), "float32", data=np.ones((3, 2), np.float32))
    tensors = {"x": FileTensor("x", (1, 2), "float32"), "w": weight}
    tensors["y"] = FileTensor("y", (1, 3), "float32")
    operator = FileOperator("FULLY_CONNECTED", 1, ("x", "w", ""), ("y",), "FullyConnectedOptions")
    file = FileModel("no bias", tensors, (operator,), {"x": "x"}, {"y": "y"})
    assert read_model(write_model(file)).operators[0].inputs == ("x", "w", "")


def words(samples=16):
    return {"x": np.random.default_rng(0).integers(0, 5, (samples, 3), dtype=np.int32)}


@pytest.fixture(scope="module")
def weighted_file() -> FileModel:
    return emit_model(legalize(weighted_graph(), get_target("litert")))


def test_weights_are_int8_behind_a_dequantize_and_a_table_is_never_float(weighted_file):
    assert [(op.code, op.version) for op in weighted_file.operators] == [
        ("DEQUANTIZE", 5),
        ("GATHER", 2),
        ("DEQUANTIZE", 5),
        ("BATCH_MATMUL", 1),
        ("QUANTIZE", 1),
    ]
    shapes = {name: tensor.shape for name, tensor in weighted_file.tensors.items()}
    held = [name for name, tensor in weighted_file.tensors.items() if tensor.data is not None]
    assert held == ["part/float/weights/table", "part/float/weights/kernel"]
    floats = [t.shape for t in weighted_file.tensors.values() if t.dtype == "float32"]
    assert shapes[held[0]] not in floats


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.integers(0, 1000))
def test_quantized_weights_of_any_width_are_proven(bits, per_channel, seed):
    graph = weighted_graph(bits, per_channel, seed)
    data = write_model(emit_model(legalize(graph, get_target("litert"))))
    results = verify(graph, data, "litert", words())
    assert [result.differing for result in results] == [0, 0]


@pytest.mark.parametrize("change", ["codes", "scale", "axis"])
@pytest.mark.parametrize("name", ["table", "kernel"])
def test_a_changed_weight_is_found(weighted_file, name, change):
    name = f"part/float/weights/{name}"
    tensor = weighted_file.tensors[name]
    other = {
        "codes": {"data": tensor.data + np.eye(*tensor.shape, dtype=np.int8)},
        "scale": {"scale": np.nextafter(tensor.scale, np.float32(9))},
        "axis": {"axis": 0, "scale": np.resize(tensor.scale, tensor.shape[0])},
    }[change]
    changed = dataclasses.replace(tensor, **other)
    tensors = {**weighted_file.tensors, name: changed}
    data = write_model(dataclasses.replace(weighted_file, tensors=tensors))
    with pytest.raises(VerificationError, match="differs from the float part 'part'"):
        verify(weighted_graph(), data, "litert", words())


def test_the_report_lists_the_weights_that_are_in_the_file(tmp_path):
    report = export(weighted_graph(), tmp_path / "net.tflite", verbose=False)
    (part,) = report.float_parts
    found = [(each.name, each.shape, each.bits, each.stored_bytes) for each in part.weights]
    assert found == [("table", (5, 4), 4, 20), ("kernel", (4, 6), 4, 24)]
    assert "table 5x4, 4 bits, 20 bytes; kernel 4x6, 4 bits, 24 bytes." in report.render()
    assert '"bits": 4' in report.to_json()
