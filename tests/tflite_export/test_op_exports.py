"""What the table of op exports states of every integer op is complete, and is what happens."""

import dataclasses

import numpy as np
import pytest

from keras_qat.integer import PROFILES, ops
from keras_qat.integer.fixed_point import get_profile
from tests.tflite_export.op_examples import EXAMPLES, one_of
from tflite_export import ExportError, plan_memory
from tflite_export.arena.placement import buffers_of, structure_bytes
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.legal.legality import check_legal
from tflite_export.legal.legalize import legalize, with_channel_scales
from tflite_export.legal.native_lookups import NATIVE_FUNCTIONS
from tflite_export.legal.storage import WEIGHT_STORAGES
from tflite_export.ops.emit_model import emit_model
from tflite_export.ops.op_export import OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType
from tflite_export.ops.table import OP_EXPORTS, export_of, micro_kernel, operator_types, runs_on
from tflite_export.targets import TARGETS, get_target

pytestmark = pytest.mark.slow_beyond(3)

every_op = pytest.mark.parametrize("kind", ops.OPS.values(), ids=lambda kind: kind.__name__)
TFLM = get_target("tflm")


def test_every_integer_op_has_one_entry_and_one_example():
    assert set(OP_EXPORTS) == set(ops.OPS.values()) == set(EXAMPLES)


@every_op
def test_nothing_is_missing(kind):
    export = OP_EXPORTS[kind]
    assert export.operators
    assert export.targets
    assert export.targets <= set(TARGETS)
    assert callable(export.emit)
    assert callable(export.check)
    assert callable(export.check_constants)
    assert ("int8" in export.weight_storages) == issubclass(kind, ops.LinearOp)


@pytest.mark.parametrize("field", ["check", "operators", "targets", "check_constants"])
def test_legality_and_cost_have_no_default(field):
    stated = {each.name: None for each in dataclasses.fields(OpExport) if each.name != field}
    with pytest.raises(TypeError, match=f"missing 1 required .*'{field}'"):
        OpExport(**stated)


@pytest.mark.parametrize("field", ["resolver", "structure_bytes", "channel_bytes", "scratch"])
def test_no_cost_in_the_arena_has_a_default(field):
    stated = {each.name: None for each in dataclasses.fields(MicroKernel) if each.name != field}
    with pytest.raises(TypeError, match=f"missing 1 required .*'{field}'"):
        MicroKernel(**stated)


@every_op
@pytest.mark.parametrize("compact", [False, True])
def test_an_op_writes_the_operators_that_it_states(kind, compact):
    graph = with_channel_scales(EXAMPLES[kind], TFLM)
    (op,) = (op for op in graph.ops if type(op) is kind)
    own = dataclasses.replace(graph, ops=(op,), outputs=(op.output,))
    written = {each.code for each in emit_model(StoredGraph(own), compact=compact).operators}
    stated = {each.code for each in export_of(op).operators}
    if issubclass(kind, ops.FloatPart):
        assert stated <= written  # it also has the operators of its own file
    else:
        assert written <= stated


@every_op
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_target_runs_what_the_op_says(kind, target):
    graph = with_channel_scales(EXAMPLES[kind], target)
    if runs_on(kind, target.family):
        check_legal(graph, target)
    else:
        with pytest.raises(ExportError, match=f"target '{target.name}' runs integers alone"):
            check_legal(graph, target)


@every_op
@pytest.mark.parametrize("storage", WEIGHT_STORAGES)
@pytest.mark.parametrize("compact", [False, True])
def test_the_memory_of_every_op_that_runs_in_tflm_is_known(kind, storage, compact):
    if not runs_on(kind, "tflm"):
        pytest.skip("not for microcontrollers")
    file = emit_model(legalize(EXAMPLES[kind], TFLM, storage), compact=compact)
    assert structure_bytes(file) > 0
    for operator in file.operators:
        assert micro_kernel(operator.code).resolver.startswith("Add")
    names = {buffer.name for buffer in buffers_of(file)}
    assert names >= {op.outputs[0] for op in file.operators}


@every_op
def test_an_op_that_moves_codes_makes_none_that_its_inputs_lack(kind):
    """Beside the zero point of a padding and the bound of a clamp."""
    if not OP_EXPORTS[kind].moves_codes:
        return
    (op,) = EXAMPLES[kind].ops
    tensors = EXAMPLES[kind].tensors
    arrays = [np.full(tensors[name].shape, 5 + k, np.int8) for k, name in enumerate(op.inputs)]
    grids = [tensors[name].qparams for name in op.inputs]
    operands = [ops.QuantizedArray(*each) for each in zip(arrays, grids, strict=True)]
    codes = [
        op.evaluate(operands, tensors[op.output].qparams, get_profile(name)) for name in PROFILES
    ]
    known = {5, 6, grids[0].zero_point, getattr(op, "bound", 5)}
    for each in codes:
        np.testing.assert_array_equal(each, codes[0])
        assert set(np.unique(each)) <= known


def test_an_operator_is_stated_in_one_way():
    by_code: dict[str, OperatorType] = {}
    for each in operator_types():
        assert by_code.setdefault(each.code, each) is each
    for function in NATIVE_FUNCTIONS:
        assert function.code in by_code
        assert ("tflm" in function.targets) == (by_code[function.code].micro is not None)


class Unknown(ops.MaxPool2D):
    """An op that is in no table."""


def graph_of_unknown():
    return one_of(lambda x, y: Unknown(x, y, (2, 2), (2, 2)))


@pytest.mark.parametrize("target", TARGETS)
def test_an_op_without_an_entry_is_an_error(target):
    with pytest.raises(ExportError, match=r"does not run the op of 'y'\. Received: Unknown"):
        check_legal(graph_of_unknown(), get_target(target))
    with pytest.raises(ExportError, match=r"Op 'y' .* not in .*OP_EXPORTS.*Received: Unknown"):
        emit_model(StoredGraph(graph_of_unknown()))
    with pytest.raises(ExportError, match="does not run the op of 'y'"):
        plan_memory(graph_of_unknown())


@pytest.mark.parametrize("count", [buffers_of, structure_bytes])
@pytest.mark.parametrize("code", ["HARD_SWISH", "GELU"])
def test_an_operator_without_a_cost_is_never_counted_as_nothing(count, code):
    file = emit_model(StoredGraph(EXAMPLES[ops.MaxPool2D]))
    other = FileOperator(code, 1, ("x",), ("y",))
    unknown: FileModel = dataclasses.replace(file, operators=(other,))
    with pytest.raises(ExportError, match=f"Operator {code} is not known in TensorFlow Lite Micro"):
        count(unknown)
