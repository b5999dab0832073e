"""`verify` finds every kind of lie: in the bytes, in the kernels, in the graph."""

import dataclasses

import numpy as np
import pytest

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import random_codes, small_network
from tflite_export import VerificationError, verify
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    return small_network()


@pytest.fixture(scope="module")
def file(graph) -> FileModel:
    return emit_model(legalize(graph, get_target("litert")))


def with_tensor(file: FileModel, name: str, **changes) -> bytes:
    changed = dataclasses.replace(file.tensors[name], **changes)
    return write_model(dataclasses.replace(file, tensors={**file.tensors, name: changed}))


@pytest.mark.parametrize(
    ("target", "profiles"), [("litert", ["litert_ref", "xnnpack-x86"]), ("tflm", ["tflm"])]
)
@pytest.mark.parametrize("io_dtype", ["int8", "uint8", "float32"])
def test_a_true_file_is_proven_on_every_tensor(graph, target, profiles, io_dtype):
    data = write_model(emit_model(legalize(graph, get_target(target)), io_dtype))
    results = verify(graph, data, target, random_codes(graph, samples=70))
    assert [result.profile for result in results] == profiles
    for result in results:
        assert (result.differing, result.samples) == (0, 70)
        names = [tensor.name for tensor in result.tensors]
        converted = [*graph.inputs] if io_dtype != "int8" else []
        ends = [f"{name}/{io_dtype}_output" for name in graph.outputs] if converted else []
        assert names == [*converted, *(op.output for op in graph.ops), *ends]


def test_a_changed_weight_is_found(graph, file):
    weights = file.tensors["conv/weight"].data.copy()
    weights[0, 1, 1, 0] += 1
    data = with_tensor(file, "conv/weight", data=weights)
    with pytest.raises(VerificationError, match=r"weights of 'conv' .* 1 of 135 differ"):
        verify(graph, data, "litert", random_codes(graph))


def test_a_changed_weight_scale_is_found(graph, file):
    scale = np.nextafter(file.tensors["depthwise/weight"].scale, np.float32(1))
    data = with_tensor(file, "depthwise/weight", scale=scale)
    with pytest.raises(VerificationError, match="weight scales of 'depthwise'"):
        verify(graph, data, "litert", random_codes(graph))


def test_a_changed_bias_is_found(graph, file):
    bias = file.tensors["logits/bias"].data + np.int32(1)
    data = with_tensor(file, "logits/bias", data=bias)
    with pytest.raises(VerificationError, match="bias of 'logits'"):
        verify(graph, data, "litert", random_codes(graph))


@pytest.mark.parametrize("changes", [{"zero_point": 4}, {"scale": np.array([0.5], np.float32)}])
def test_a_changed_grid_is_found(graph, file, changes):
    data = with_tensor(file, "sum", **changes)
    with pytest.raises(VerificationError, match="another grid or shape for tensor 'sum'"):
        verify(graph, data, "litert", random_codes(graph))


def test_a_missing_tensor_is_found(graph, file):
    renamed = {name.replace("max_pool", "pool"): t for name, t in file.tensors.items()}
    renamed["pool"] = dataclasses.replace(renamed["pool"], name="pool")
    operators = tuple(
        dataclasses.replace(
            op,
            inputs=tuple(name.replace("max_pool", "pool") for name in op.inputs),
            outputs=tuple(name.replace("max_pool", "pool") for name in op.outputs),
        )
        for op in file.operators
    )
    data = write_model(dataclasses.replace(file, tensors=renamed, operators=operators))
    with pytest.raises(VerificationError, match="no tensor 'max_pool'"):
        verify(graph, data, "litert", random_codes(graph))


def test_float_arithmetic_inside_is_found(graph, file):
    inside = FileTensor("inside", (1, 7), "float32")
    again = FileTensor("again", (1, 7), "int8", np.array([1.0], np.float32))
    operators = (
        *file.operators,
        FileOperator("DEQUANTIZE", 2, ("logits",), ("inside",)),
        FileOperator("QUANTIZE", 1, ("inside",), ("again",)),
    )
    tensors = {**file.tensors, "inside": inside, "again": again}
    data = write_model(dataclasses.replace(file, tensors=tensors, operators=operators))
    with pytest.raises(VerificationError, match="float32 inside, at tensor 'inside'"):
        verify(graph, data, "litert", random_codes(graph))


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_another_option_is_found_by_running(graph, file, target):
    """The bytes hold the right numbers, but the operator does something else with them."""
    operators = [
        dataclasses.replace(op, fields={**op.fields, "fusedActivationFunction": "NONE"})
        if op.outputs == ("sum",)
        else op
        for op in file.operators
    ]
    data = write_model(dataclasses.replace(file, operators=tuple(operators)))
    with pytest.raises(VerificationError, match=r"first in tensor 'sum': \d+ of \d+ elements"):
        verify(graph, data, target, random_codes(graph))


def test_a_moved_constant_is_found_by_running(graph, file):
    data = with_tensor(file, "clamp_low/bound", data=np.array([-9], np.int8))
    with pytest.raises(VerificationError, match="tensor 'clamp_low'"):
        verify(graph, data, "litert", random_codes(graph))


def test_learned_weights_of_another_graph_are_found(graph, file):
    (first, *others) = graph.ops
    values = -first.weight.values
    other = dataclasses.replace(first, weight=ops.QuantizedArray(values, first.weight.qparams))
    lie = dataclasses.replace(graph, ops=(other, *others))
    with pytest.raises(VerificationError, match="weights of 'conv'"):
        verify(lie, write_model(file), "litert", random_codes(graph))
