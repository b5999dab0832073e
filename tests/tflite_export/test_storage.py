"""How weights lie in a file: what fits where, what `"auto"` takes, and that TFLM runs it."""

import dataclasses
import functools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops, run
from tests.tflite_export.graphs import linear_graphs, random_codes, small_network
from tests.tflite_export.harness import exact_law
from tests.tflite_export.op_examples import EXAMPLES
from tflite_export import ExportError, VerificationError, export, predict, verify
from tflite_export.contents import describe_loss, report_weights
from tflite_export.file.file_model import FileModel
from tflite_export.file.lookup_table import DECODE_OPERATOR
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import read_model, write_model
from tflite_export.legal.legalize import legalize
from tflite_export.legal.storage import WEIGHT_STORAGES
from tflite_export.ops.emit_model import emit_model
from tflite_export.ops.table import runs_on
from tflite_export.proof.comparison import ModelComparison
from tflite_export.proof.verification import verify_runtime
from tflite_export.targets import get_target

pytestmark = pytest.mark.slow_beyond(1)

TFLM = get_target("tflm")
every_storage = pytest.mark.parametrize("storage", WEIGHT_STORAGES)


def dense(bits: int, units: int = 16, features: int = 64, y_scale: float = 1.0) -> IntegerGraph:
    """One Dense layer whose multiplier is `2**-9 / y_scale`."""
    return one_layer(ops.FullyConnected, (1, features), (units, features), 0, bits, y_scale)


def convolution(bits: int, y_scale: float = 1.0) -> IntegerGraph:
    return one_layer(ops.Conv2D, (1, 4, 4, 16), (16, 3, 3, 16), 0, bits, y_scale)


def depthwise(bits: int, y_scale: float = 1.0) -> IntegerGraph:
    return one_layer(ops.DepthwiseConv2D, (1, 9, 9, 64), (1, 9, 9, 64), 3, bits, y_scale)


every_layer = pytest.mark.parametrize("layer", [dense, convolution, depthwise])


def one_layer(make, input_shape, weight_shape, axis, bits, y_scale) -> IntegerGraph:
    generator = np.random.default_rng(bits)
    low, high = (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    low = max(low, -127)
    values = generator.integers(low, high, weight_shape, dtype=np.int8, endpoint=True)
    values = np.where(values >= 0, 1, -1).astype(np.int8) if bits == 1 else values
    channels = weight_shape[axis]
    grid = QuantParams(np.full(channels, 2.0**-5, np.float32), 0, low, high, axis)
    builder = GraphBuilder()
    x = builder.add_input("x", input_shape, QuantParams(np.float32(2.0**-4)))
    weight = ops.QuantizedArray(values, grid)
    op = make((x,), "y", weight, generator.normal(size=channels), weight_bits=bits)
    return builder.build((builder.add(op, QuantParams(np.float32(y_scale))),))


def stored_as(graph: IntegerGraph, weight_storage: str) -> str:
    (storage,) = legalize(graph, TFLM, weight_storage).storage.values()
    return storage


def file_of(stored: StoredGraph) -> FileModel:
    return read_model(write_model(emit_model(stored, compact=TFLM.compact)))


@pytest.mark.parametrize("storage", ["int4", "lut"])
def test_a_layer_that_the_asked_storage_does_not_hold_is_named(storage, tmp_path):
    path = tmp_path / "net.tflite"
    report = export(dense(8), path, target="tflm", weight_storage=storage, verbose=False)
    said = (
        f"weight_storage='{storage}' holds 0 of 1 layers. Others are stored as they can be: "
        "'y' (8 bits, int8)."
    )
    assert said in report.limits
    assert f"Mind: {said}" in " ".join(report.summary().split())
    for bits, asked in ((4, storage), (8, "auto"), (8, "int8")):
        report = export(dense(bits), path, target="tflm", weight_storage=asked, verbose=False)
        assert not any("Others are stored" in each for each in report.limits)


@every_layer
@every_storage
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_tflm_computes_the_graph_from_every_storage(layer, storage, bits):
    graph = layer(bits)
    data = write_model(emit_model(legalize(graph, TFLM, storage), compact=True))
    codes = random_codes(graph)
    (result,) = verify(graph, data, "tflm", codes)
    assert (result.differing, result.samples) == (0, 4)
    assert result.elements >= run(graph, codes, "tflm")["y"].size


@every_storage
@pytest.mark.parametrize(
    ("make", "input_shape", "weight_shape", "axis"),
    [
        (ops.FullyConnected, (1, 64), (1, 64), 0),
        (ops.Conv2D, (1, 4, 4, 16), (1, 3, 3, 16), 0),
        (ops.DepthwiseConv2D, (1, 9, 9, 1), (1, 3, 3, 1), 3),
        (ops.DepthwiseConv2D, (1, 9, 9, 1), (1, 3, 3, 5), 3),
    ],
)
def test_tflm_computes_layers_of_one_channel(make, input_shape, weight_shape, axis, storage):
    graph = one_layer(make, input_shape, weight_shape, axis, 4, 1.0)
    data = write_model(emit_model(legalize(graph, TFLM, storage), compact=True))
    (result,) = verify(graph, data, "tflm", random_codes(graph))
    assert result.differing == 0


enlarging = functools.partial(ops.TransposeConv2D, output_size=(4, 4))

linear_layers = st.one_of(
    linear_graphs((1, 9), (4, 9), ops.FullyConnected, 0),
    linear_graphs((1, 5, 4, 3), (2, 3, 2, 3), ops.Conv2D, 0),
    linear_graphs((1, 5, 4, 3), (1, 2, 3, 6), ops.DepthwiseConv2D, 3),
    linear_graphs((1, 3, 2, 9), (4, 9), ops.FullyConnected, 0),
    linear_graphs((1, 5, 4, 6), (4, 3, 2, 3), ops.Conv2D, 0),
    linear_graphs((1, 3, 2, 3), (4, 2, 3, 3), enlarging, 0),
)


@exact_law
@given(linear_layers, st.sampled_from(WEIGHT_STORAGES))
def test_tflm_computes_any_layer_from_any_storage(graph, storage):
    data = write_model(emit_model(legalize(graph, TFLM, storage), compact=True))
    (result,) = verify(graph, data, "tflm", random_codes(graph))
    assert result.differing == 0


@every_layer
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_storage_is_used_where_the_weights_fit(layer, bits):
    assert stored_as(layer(bits), "int8") == "int8"
    assert stored_as(layer(bits), "int4") == ("int4" if bits <= 4 else "int8")
    assert stored_as(layer(bits), "lut") == ("lut" if bits <= 7 else "int8")


def test_a_transposed_convolution_is_not_stored_as_int4():
    graph = one_layer(enlarging, (1, 3, 2, 16), (16, 2, 3, 16), 0, 3, 1.0)
    assert [stored_as(graph, each) for each in ("int4", "lut")] == ["int8", "lut"]


@pytest.mark.parametrize("storage", ["auto", "lut"])
@pytest.mark.parametrize("network", [dense(3), convolution(2), small_network()])
def test_tables_and_auto_change_no_integer(network, storage):
    """They hold what int8 holds, headroom included: so their outputs are those of int8."""
    plain, stored = (legalize(network, TFLM, each).graph for each in ("int8", storage))
    for before, after in zip(plain.ops, stored.ops, strict=True):
        if isinstance(before, ops.LinearOp):
            np.testing.assert_array_equal(after.weight.values, before.weight.values)
            np.testing.assert_array_equal(after.weight.qparams.scale, before.weight.qparams.scale)


def test_auto_takes_the_smallest_exact_storage():
    assert stored_as(convolution(2), "auto") == "lut"
    assert stored_as(convolution(8), "auto") == "int8"
    assert stored_as(dense(2, units=1, features=8), "auto") == "int8"  # a table costs more
    # No headroom is of use above a multiplier of 1/2: INT4 holds the same integers.
    assert stored_as(convolution(4, y_scale=2.0**-9), "auto") == "int4"


@pytest.mark.parametrize("graph", [convolution(2), convolution(3), dense(1), depthwise(2)])
def test_auto_is_never_larger(graph):
    sizes = {
        storage: len(write_model(emit_model(legalize(graph, TFLM, storage), compact=True)))
        for storage in WEIGHT_STORAGES
    }
    assert sizes["auto"] <= min(sizes["int8"], sizes["lut"])


def test_weights_on_one_scale_get_a_table_for_each_channel():
    """TFLM reads a table for the whole tensor wrongly where scales are those of channels."""
    graph = convolution(3)
    (op,) = graph.ops
    one_scale = QuantParams(np.float32(2.0**-5), 0, -4, 3)
    weight = ops.QuantizedArray(op.weight.values, one_scale)
    graph = dataclasses.replace(graph, ops=(dataclasses.replace(op, weight=weight),))
    stored = legalize(graph, TFLM, "lut")
    file = file_of(stored)
    tables = file.tensors["y/weight/tables"].data
    assert tables[5] >> 4 == 0  # the channel axis; 15 would say: one table
    assert tables.size == 16 + 16 * tables[6]
    data = write_model(emit_model(stored, compact=True))
    (result,) = verify(graph, data, "tflm", random_codes(graph))
    assert result.differing == 0


def test_dense_layers_in_int4_are_convolutions():
    graph = dense(4)
    file = file_of(legalize(graph, TFLM, "int4"))
    assert [op.code for op in file.operators] == ["RESHAPE", "CONV_2D", "RESHAPE"]
    assert file.tensors["y/convolution/weight"].dtype == "int4"
    assert file.tensors["y"].shape == (1, 16)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_int4_is_read_back_as_written(size):
    graph = dense(4, units=1, features=size)
    stored = legalize(graph, TFLM, "int4")
    weight = file_of(stored).tensors["y/convolution/weight"]
    np.testing.assert_array_equal(weight.data, stored.linear_op("y").weight.values)


def test_a_compact_file_has_one_zero_point_and_fixed_shapes():
    graph = small_network()
    full, compact = (
        write_model(emit_model(legalize(graph, TFLM), compact=choice)) for choice in (False, True)
    )
    assert len(compact) < len(full)
    tensors = read_model(compact).tensors.values()
    assert not any(tensor.resizable for tensor in tensors)
    constants = [tensor for tensor in tensors if tensor.data is not None]
    assert not any(tensor.scale.size for tensor in constants if tensor.dtype == "int32")
    (result,) = verify(graph, compact, "tflm", random_codes(graph))
    assert result.differing == 0


OPENS_ANYWHERE = {
    **{kind.__name__: graph for kind, graph in EXAMPLES.items() if runs_on(kind, "tflm")},
    "network": small_network(),
}


@pytest.mark.parametrize("name", OPENS_ANYWHERE)
def test_a_file_for_tflm_in_int8_runs_in_every_runtime(name, tmp_path):
    graph, path = OPENS_ANYWHERE[name], tmp_path / "net.tflite"
    export(graph, path, target="tflm", weight_storage="int8", verbose=False)
    data, codes = path.read_bytes(), random_codes(graph)
    file, stated = read_model(data), legalize(graph, TFLM, "int8").graph
    for profile in ("tflm", "litert_ref", "xnnpack"):
        result = verify_runtime(stated, data, file, profile, codes)
        assert (profile, result.differing) == (profile, 0)
        assert result.elements > 0


def test_a_vector_of_scales_has_as_many_zero_points(tmp_path):
    schema, counts = pytest.importorskip("ai_edge_litert.schema_py_generated"), {}
    for compact in (False, True):
        path = tmp_path / "net.tflite"
        export(convolution(8), path, target="tflm", compact=compact, verbose=False)
        (graph,) = schema.ModelT.InitFromPackedBuf(path.read_bytes()).subgraphs
        grids = {each.name.decode(): each.quantization for each in graph.tensors}
        counts[compact] = (grids["y/weight"].scale.size, grids["y/weight"].zeroPoint.size)
    assert counts == {False: (16, 16), True: (16, 1)}


def test_litert_does_not_open_a_compact_file(tmp_path):
    path = tmp_path / "net.tflite"
    export(convolution(8), path, target="tflm", compact=True, verbose=False)
    codes = np.zeros((1, 4, 4, 16))
    with pytest.raises(ValueError, match="QuantizationParam has 1 zero_point values and 16 scal"):
        predict(path, codes)
    assert predict(path, codes, runtime="tflm").shape == (1, 2, 2, 16)


def test_only_files_for_tflm_are_compact(tmp_path):
    with pytest.raises(ValueError, match=r"export for 'tflm'. Received: .*target='litert'"):
        export(convolution(8), tmp_path / "net.tflite", compact=True)


def with_data(file: FileModel, name: str, data: np.ndarray) -> bytes:
    changed = dataclasses.replace(file.tensors[name], data=data)
    return write_model(dataclasses.replace(file, tensors={**file.tensors, name: changed}))


@pytest.mark.parametrize("part", ["indices", "tables"])
def test_a_changed_table_is_found(part):
    graph = convolution(2)
    file = file_of(legalize(graph, TFLM, "lut"))
    name = f"y/weight/{part}"
    changed = file.tensors[name].data.copy()
    changed[-1] ^= 1
    with pytest.raises(VerificationError, match="weights of 'y' are not the learned integers"):
        verify(graph, with_data(file, name, changed), "tflm", random_codes(graph))


def test_a_table_of_another_kind_is_found():
    graph = convolution(2)
    file = file_of(legalize(graph, TFLM, "lut"))
    changed = file.tensors["y/weight/tables"].data.copy()
    changed[0] = 1
    data = with_data(file, "y/weight/tables", changed)
    with pytest.raises(VerificationError, match="lookup table of 'y/weight': Not a lookup table"):
        verify(graph, data, "tflm", random_codes(graph))


def test_a_changed_nibble_is_found():
    graph = convolution(4)
    file = file_of(legalize(graph, TFLM, "int4"))
    changed = file.tensors["y/weight"].data.copy()
    changed[0, 0, 0, 0] ^= 1
    data = with_data(file, "y/weight", changed)
    with pytest.raises(VerificationError, match="1 of 2304 differ"):
        verify(graph, data, "tflm", random_codes(graph))


def test_the_report_says_what_int4_costs(tmp_path):
    graph = convolution(3)
    report = export(
        graph, tmp_path / "n.tflite", target="tflm", weight_storage="int4", verbose=False
    )
    (weight,) = report.weights
    assert (weight.storage, weight.stored_bytes) == ("int4", 16 * 9 * 16 // 2)
    assert not weight.faithful
    assert weight.predicted_flip_rate > weight.predicted_in_int8
    assert any("INT4 leaves 1 layer less room" in limit for limit in report.limits)
    exact = export(graph, tmp_path / "n.tflite", target="tflm", verbose=False)
    assert exact.weights[0].faithful
    assert exact.weights[0].predicted_flip_rate == weight.predicted_in_int8
    assert not any("INT4" in limit for limit in exact.limits)


def test_the_cost_of_int4_is_said_of_a_tensor_that_the_model_does_not_state():
    stored = legalize(convolution(3), TFLM, "int4")
    weights = report_weights(convolution(3), stored, emit_model(stored), "tflm", {})
    comparison = ModelComparison("tflm", samples=4, tensors=())
    assert describe_loss(weights, comparison) == describe_loss(weights, None)
    assert "'y': " in describe_loss(weights, comparison)


def test_strict_refuses_what_int4_costs(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"mine")
    options = {"target": "tflm", "strict": True, "verbose": False}
    with pytest.raises(ExportError, match=r"strict=True refuses INT4 weights .* in 'y'"):
        export(convolution(3), path, weight_storage="int4", **options)
    assert path.read_bytes() == b"mine"
    for storage in ("auto", "lut", "int8"):
        export(convolution(3), path, weight_storage=storage, **options)
    export(convolution(3, y_scale=2.0**-9), path, weight_storage="int4", **options)


@pytest.mark.parametrize(
    ("target", "storage", "message"),
    [
        ("tflm", "int3", "weight_storage must be one of"),
        ("tflm", "int2", "Target 'tflm' loads weights as int8, int4, lut"),
        ("litert", "lut", "Target 'litert' loads weights as int8"),
        ("ethos-u", "int4", "Target 'ethos-u' loads weights as int8"),
    ],
)
def test_a_storage_that_there_is_not_is_refused(tmp_path, target, storage, message):
    with pytest.raises(ValueError, match=message):
        export(dense(2), tmp_path / "net.tflite", target=target, weight_storage=storage)


def test_a_litert_file_has_no_tables():
    file = emit_model(legalize(convolution(2), get_target("litert"), "auto"))
    assert DECODE_OPERATOR not in [op.code for op in file.operators]


def test_models_above_256_kib_run_in_tflm():
    """Tools that move large buffers out of the file make TFLM return garbage; this one does not."""
    graph = dense(8, units=600, features=512)
    data = write_model(emit_model(legalize(graph, TFLM), compact=True))
    assert len(data) > 256 * 1024
    (result,) = verify(graph, data, "tflm", random_codes(graph))
    assert result.differing == 0


def test_convolutions_in_groups_are_never_int4():
    """The kernel of CMSIS-NN ignores groups of INT4 weights, and raises nothing."""
    graph = one_layer(ops.Conv2D, (1, 4, 4, 16), (16, 3, 3, 8), 0, 3, 1.0)
    assert legalize(graph, TFLM, "int4").storage == {"y": "int8"}
    assert legalize(graph, TFLM, "auto").storage == {"y": "lut"}
    assert legalize(convolution(3), TFLM, "int4").storage == {"y": "int4"}
