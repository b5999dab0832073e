"""A float part that ends on no grid: how it is written, and how near runtimes have to be."""

import dataclasses
import math

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, IntegerTensor, QuantParams, ops, run
from keras_qat.integer.graph import NO_GRID
from tests.tflite_export.float_networks import result_graph, weighted_difference
from tests.tflite_export.graphs import random_codes
from tflite_export import ExportError, VerificationError, export, verify
from tflite_export.file.file_model import FileOperator, FileTensor
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.ops.float_weights import with_codes
from tflite_export.proof.comparison import ModelComparison
from tflite_export.proof.float_difference import (
    FLOAT_TOLERANCE,
    FloatDifference,
    float_difference,
    merge_floats,
)
from tflite_export.proof.limits import Limits, check_limits
from tflite_export.targets import get_target

GRID = QuantParams(np.float32(0.1), zero_point=3)
GRAPH = result_graph(GRID, GRID)
FILE = emit_model(legalize(GRAPH, get_target("litert")))


@pytest.mark.parametrize("profile", ["litert_ref", "xnnpack-x86"])
def test_the_interpreter_yields_float32(profile):
    codes = random_codes(GRAPH)
    left, right = (GRID.dequantize(codes[name]) for name in ("left", "right"))
    found = run(GRAPH, codes, profile)["part"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(2.0) * left - right)


def test_a_graph_says_the_dtype_of_its_op():
    wrong = {**GRAPH.tensors, "part": IntegerTensor("part", (1, 3, 3, 2), NO_GRID)}
    with pytest.raises(ValueError, match=r"'part' \(FloatResult\) yields float32\. .* of int8"):
        dataclasses.replace(GRAPH, tensors=wrong).validate()


def test_no_integer_op_reads_it():
    builder = GraphBuilder()
    for name in ("left", "right"):
        builder.add_input(name, (1, 3, 3, 2), GRID)
    x = builder.add(GRAPH.ops[0], NO_GRID)
    builder.add(ops.MaxPool2D((x,), "pool", (2, 2), (1, 1)), GRID)
    with pytest.raises(ValueError, match=r"'pool' \(MaxPool2D\) needs int8 tensors.*\['part'\]"):
        builder.build(("pool",))


def test_it_has_no_quantize_and_its_last_operator_writes_it():
    assert [op.code for op in FILE.operators] == ["DEQUANTIZE", "DEQUANTIZE", "MUL", "SUB"]
    assert FILE.operators[-1].outputs == ("part",)
    assert FILE.tensors["part"].dtype == "float32"
    assert FILE.outputs == {"part": "part"}


def test_float_inputs_and_outputs_alone_are_wrapped():
    file = emit_model(legalize(GRAPH, get_target("litert")), "float32")
    assert file.inputs == {"left": "left/float32_input", "right": "right/float32_input"}
    assert file.outputs == {"part": "part"}


def test_a_part_reads_what_another_part_yields(tmp_path):
    """A second part, in which the first one's output is both operands: `2 * y - y`."""
    builder = GraphBuilder()
    names = tuple(builder.add_input(name, (1, 3, 3, 2), GRID) for name in ("left", "right"))
    y = builder.add(dataclasses.replace(GRAPH.ops[0], inputs=names), NO_GRID)
    file = weighted_difference(2.0, (1, 3, 3, 2))
    z = builder.add(ops.FloatResult((y, y), "twice", file, ("third",), (3, 3, 2)), NO_GRID)
    graph = builder.build((y, z))
    report = export(graph, tmp_path / "net.tflite", verbose=False)
    found = [each for result in report.verifications for each in result.float_tensors]
    assert [each.name for each in found] == ["part", "twice"] * 2
    assert {each.largest for each in found} == {0.0}  # products by 2 and differences are exact
    assert report.io_dtype == "int8"


def off_by(monkeypatch, share):
    """The interpreter computes one element off, by a share of the largest value."""
    evaluate = ops.FloatResult.evaluate

    def other(self, inputs, output, profile):
        values = evaluate(self, inputs, output, profile).copy()
        values.flat[0] += share * np.max(np.abs(values))
        return values

    monkeypatch.setattr(ops.FloatResult, "evaluate", other)


def test_the_order_of_float_sums_is_accepted(monkeypatch):
    off_by(monkeypatch, 0.9 * FLOAT_TOLERANCE)
    for result in verify(GRAPH, write_model(FILE), "litert", random_codes(GRAPH)):
        (found,) = result.float_tensors
        assert 0.8 * FLOAT_TOLERANCE < found.relative <= FLOAT_TOLERANCE
        assert result.differing == 0


@pytest.mark.parametrize("share", [1.1 * FLOAT_TOLERANCE, math.nan])
def test_more_is_refused(monkeypatch, share):
    off_by(monkeypatch, share)
    with pytest.raises(VerificationError, match="'part' differs from the graph by at most"):
        verify(GRAPH, write_model(FILE), "litert", random_codes(GRAPH))


def test_another_operator_inside_is_found():
    changed = [
        dataclasses.replace(op, code="ADD", options="AddOptions") if op.code == "SUB" else op
        for op in FILE.operators
    ]
    data = write_model(dataclasses.replace(FILE, operators=tuple(changed)))
    with pytest.raises(VerificationError, match="no operator SUB of the float part 'part'"):
        verify(GRAPH, data, "litert", random_codes(GRAPH))


@pytest.mark.parametrize("answers", [True, False])
def test_a_float_output_is_held_to_its_mean_error(answers):
    far = FloatDifference("head", 100, largest=0.5, mean=0.02, largest_value=2.0)
    comparison = ModelComparison("xnnpack-x86", 10, (), float_outputs=(far,))
    limits = Limits(max_flip_rate=0.01, min_argmax_agreement=0.99, max_output_error=0.02)
    check_limits(comparison, limits, answers)
    with pytest.raises(ExportError, match="float32 tensor 'head' differs from the trained model"):
        check_limits(comparison, dataclasses.replace(limits, max_output_error=0.009), answers)


def test_differences_of_float_tensors():
    x = np.float32([[1.0, -4.0], [np.inf, 2.0]])
    assert float_difference("x", x, x).largest == 0.0
    assert float_difference("x", x, x.astype(np.float64)).largest == math.inf
    assert float_difference("x", x, np.where(x == 2.0, np.nan, x)).largest == math.inf
    first, second = (float_difference("x", x[:1] + off, x[:1]) for off in (0.0, 1.0))
    (both,) = merge_floats([[first], [second]])
    assert both == FloatDifference("x", 4, 1.0, 0.5, 4.0)
    assert (both.relative, both.mean_relative) == (0.25, 0.125)
    zeros = float_difference("x", 0 * x[:1], 0 * x[:1])
    assert zeros.relative == 0.0
    assert float_difference("x", x[:1], 0 * x[:1]).relative == math.inf


def moved(*moves, shape=(4, 6), axis=1):
    """A kernel behind operators that move it, and a reader of the result."""
    codes = np.arange(np.prod(shape), dtype=np.int8).reshape(shape)
    scale = np.arange(1, shape[axis] + 1, dtype=np.float32)
    constant = FileTensor("kernel", shape, "int8", scale, axis=axis, data=codes)
    tensors, operators, name = [FileTensor("w", shape, "float32")], [], "w"
    for index, (code, how, result) in enumerate(moves):
        how_tensor = FileTensor(f"how{index}", (len(how),), "int32", data=np.int32(how))
        tensors += [how_tensor, FileTensor(f"m{index}", result, "float32")]
        operators.append(FileOperator(code, 1, (name, how_tensor.name), (f"m{index}",)))
        name = f"m{index}"
    operators.append(FileOperator("ABS", 1, (name,), ("y",)))
    expected = codes.astype(np.float32) * scale.reshape([-1 if k == axis else 1 for k in (0, 1)])
    return codes, expected, with_codes("w", constant, tensors, operators)


def test_a_kernel_is_stored_as_its_operator_reads_it():
    _, expected, (tensors, operators) = moved(
        ("TRANSPOSE", (1, 0), (6, 4)), ("RESHAPE", (6, 2, 2), (6, 2, 2))
    )
    assert [op.code for op in operators] == ["DEQUANTIZE", "ABS"]
    (stored,) = (tensor for tensor in tensors if tensor.name == "kernel")
    assert (stored.shape, stored.axis) == ((6, 2, 2), 0)
    values = stored.data.astype(np.float32) * stored.scale.reshape(6, 1, 1)
    np.testing.assert_array_equal(values, expected.T.reshape(6, 2, 2))


def test_channels_that_would_not_lie_along_an_axis_are_moved_in_the_runtime():
    codes, _, (tensors, operators) = moved(("RESHAPE", (24,), (24,)))
    assert [op.code for op in operators] == ["DEQUANTIZE", "RESHAPE", "ABS"]
    (stored,) = (tensor for tensor in tensors if tensor.name == "kernel")
    np.testing.assert_array_equal(stored.data, codes)


def test_a_layout_that_two_operators_read_is_stored_once():
    shape = (4, 6)
    codes = FileTensor("kernel", shape, "int8", np.float32([0.5]), data=np.ones(shape, np.int8))
    order = FileTensor("order", (2,), "int32", data=np.int32([1, 0]))
    others = [FileTensor(name, (6, 4), "float32") for name in ("a", "b")]
    flat = FileTensor("c", (24,), "float32")
    operators = [
        FileOperator("TRANSPOSE", 1, ("w", "order"), ("a",)),
        FileOperator("TRANSPOSE", 1, ("w", "order"), ("b",)),
        FileOperator("RESHAPE", 1, ("w",), ("c",)),
        FileOperator("MUL", 1, ("a", "b"), ("y",)),
        FileOperator("ABS", 1, ("c",), ("z",)),
    ]
    given = [FileTensor("w", shape, "float32"), order, *others, flat]
    tensors, written = with_codes("w", codes, given, operators)
    assert [op.code for op in written] == ["DEQUANTIZE", "DEQUANTIZE", "MUL", "ABS"]
    assert next(op for op in written if op.code == "MUL").inputs == ("a", "a")
    stored = {tensor.name: tensor.shape for tensor in tensors if tensor.dtype == "int8"}
    assert stored == {"kernel": (6, 4), "kernel/1": (24,)}
