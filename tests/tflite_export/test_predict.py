"""`predict`: real numbers in, real numbers out, by the names of the graph."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from keras_qat.integer.headroom import add_headroom
from tests.tflite_export.graphs import small_network
from tflite_export import export, predict

IMAGES = np.random.default_rng(0).normal(size=(10, 9, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=["int8", "uint8", "float32"])
def path(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("predict") / f"{request.param}.tflite"
    export(small_network(), file, io_dtype=request.param, verify=False, verbose=False)
    return file


@pytest.mark.parametrize("batch_size", [3, 256])
def test_outputs_are_those_of_the_integer_graph(path, batch_size):
    graph = add_headroom(small_network())
    codes = graph.tensors["image"].qparams.quantize(IMAGES).astype(np.int8)
    expected = run(graph, codes, "xnnpack")
    actual = predict(path, IMAGES, batch_size=batch_size)
    assert set(actual) == set(graph.outputs)
    for name in graph.outputs:
        assert actual[name].dtype == np.float32
        real = graph.tensors[name].qparams.dequantize(expected[name])
        np.testing.assert_array_equal(actual[name], real)


@pytest.mark.parametrize("io_dtype", ["int8", "uint8", "float32"])
def test_tflm_runs_what_litert_cannot_load(io_dtype, tmp_path):
    graph, path = small_network(), tmp_path / "net.tflite"
    options = {"target": "tflm", "weight_storage": "lut", "io_dtype": io_dtype}
    export(graph, path, verify=False, verbose=False, **options)
    codes = graph.tensors["image"].qparams.quantize(IMAGES).astype(np.int8)
    expected = run(add_headroom(graph), codes, "tflm")
    on_grid = graph.tensors["image"].qparams.dequantize(codes)
    actual = predict(path, on_grid, runtime="tflm")
    for name in graph.outputs:
        assert actual[name].dtype == np.float32
        real = graph.tensors[name].qparams.dequantize(expected[name])
        np.testing.assert_array_equal(actual[name], real)


def test_an_unknown_runtime_is_refused(path):
    with pytest.raises(ValueError, match=r"one of \['litert', 'tflm'\]. Received: 'tf'"):
        predict(path, IMAGES, runtime="tf")


def test_inputs_may_come_by_name(path):
    by_name, bare = predict(path, {"image": IMAGES}), predict(path, IMAGES)
    for name in bare:
        np.testing.assert_array_equal(by_name[name], bare[name])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"picture": IMAGES}, r"inputs are \['image'\]. Received: \['picture'\]"),
        (IMAGES[:, :4], r"needs the shape \(examples, 9, 8, 3\)"),
        (IMAGES[:0], "at least one example"),
    ],
)
def test_wrong_inputs_are_named(path, inputs, message):
    with pytest.raises(ValueError, match=message):
        predict(path, inputs)


def test_one_output_comes_bare_and_two_inputs_need_names(tmp_path):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.5))
    names = tuple(builder.add_input(name, (1, 2), grid) for name in ("left", "right"))
    graph = builder.build((builder.add(ops.Add(names, "y"), grid),))
    export(graph, tmp_path / "sum.tflite", verify=False, verbose=False)
    ones = np.ones((3, 2))
    assert (
        predict(tmp_path / "sum.tflite", {"left": ones, "right": 2 * ones}).tolist()
        == [[3.0, 3.0]] * 3
    )
    for runtime in ("litert", "tflm"):
        found = predict(tmp_path / "sum.tflite", [ones, 2 * ones], runtime=runtime)
        assert found.tolist() == [[3.0, 3.0]] * 3
    with pytest.raises(ValueError, match="several inputs"):
        predict(tmp_path / "sum.tflite", ones)
    with pytest.raises(ValueError, match="the same number of examples"):
        predict(tmp_path / "sum.tflite", {"left": ones, "right": ones[:1]})
