"""LiteRT on an emulated arm64 processor computes what the profile `"xnnpack-arm64"` states."""

import numpy as np
import pytest
from hypothesis import given

import keras_qat
import tflite_export
from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from tests.arm64.emulated import NotHereError, emulated_python
from tests.end_to_end.test_inference_of_tflm import every_kind_of_op
from tests.models import images, residual_network
from tests.tflite_export.graphs import random_codes, small_network
from tests.tflite_export.harness import exact_law
from tests.tflite_export.op_examples import EXAMPLES
from tests.tflite_export.ops.test_mean import mean_graphs
from tests.tflite_export.ops.test_mul import mul_graphs
from tests.tflite_export.ops.test_softmax import softmax_graphs
from tests.tflite_export.test_packed_dense import dense
from tflite_export import OtherRuntime
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize, with_channel_scales
from tflite_export.ops.emit_model import emit_model
from tflite_export.proof.verification import verify_runtime
from tflite_export.targets import get_target

pytestmark = pytest.mark.slow

X = images(16, (12, 12, 3))


@pytest.fixture(scope="module")
def arm64():
    try:
        runtime = OtherRuntime(emulated_python(), "xnnpack-arm64")
        assert runtime.said().endswith("on aarch64")
    except NotHereError as error:
        pytest.skip(str(error))
    return runtime


def compared(arm64, graph, samples=8, seed=0, stored=None) -> int:
    """How many elements were compared; none differs."""
    stored = stored or StoredGraph(with_channel_scales(graph, get_target("litert")))
    stated, file = stored.graph, emit_model(stored)
    codes = random_codes(stated, seed, samples)
    data, profile = write_model(file), arm64.profile
    result = verify_runtime(stated, data, file, profile, codes, arm64)
    assert {t.name: t.differing for t in result.tensors if t.differing} == {}, result
    return result.elements


def decimal(rng, low, high) -> float:
    """Scales of two digits: many products of codes are near a tie then."""
    return float(f"{2.0 ** rng.uniform(low, high):.2g}")


def grid_of(rng, scale) -> QuantParams:
    levels = int(rng.choice([2, 16, 256]))
    grid = QuantParams(np.float32(scale), int(rng.integers(levels)), 0, levels - 1)
    return grid.placed_in_int8()


def product(rng):
    builder = GraphBuilder()
    scales = [decimal(rng, -8, 2) for _ in range(2)]
    names = [
        builder.add_input(name, (1, 64, 64), grid_of(rng, scale))
        for name, scale in zip("ab", scales, strict=True)
    ]
    output = float(f"{scales[0] * scales[1] / 2.0 ** rng.uniform(-15.8, 7.8):.2g}")
    grid = QuantParams(np.float32(output), int(rng.integers(-128, 128)))
    return builder.build((builder.add(ops.Mul(tuple(names), "y"), grid),))


def mean(rng):
    builder, scale = GraphBuilder(), decimal(rng, -8, 2)
    shape = (1, *(int(side) for side in rng.integers(1, 13, 2)), 32)
    x = builder.add_input("x", shape, grid_of(rng, scale))
    grid = QuantParams(np.float32(scale * decimal(rng, -6, 4)), int(rng.integers(-128, 128)))
    return builder.build((builder.add(ops.Mean((x,), "y"), grid),))


def softmax(rng):
    builder = GraphBuilder()
    shape = (1, int(rng.integers(1, 60)), int(rng.integers(2, 40)))
    x = builder.add_input("x", shape, grid_of(rng, decimal(rng, -12, 6)))
    return builder.build((builder.add(ops.Softmax((x,), "y"), ops.SOFTMAX_OUTPUT),))


@pytest.mark.parametrize(("make", "count"), [(product, 100), (mean, 150), (softmax, 60)])
def test_a_sweep_of_the_operators_that_differ(arm64, make, count):
    """3.7 million elements together. Some of each operator differ from x86-64."""
    rng = np.random.default_rng(0)
    elements = other = 0
    for seed in range(count):
        graph = make(rng)
        elements += compared(arm64, graph, seed=seed)
        codes = random_codes(graph, seed, 8)
        both = [run(graph, codes, name)["y"] for name in ("xnnpack-arm64", "xnnpack-x86")]
        other += np.count_nonzero(both[0] != both[1])
    assert other
    assert elements >= {product: 3_200_000, mean: 38_400, softmax: 300_000}[make]


@exact_law
@given(graph=mul_graphs() | mean_graphs() | softmax_graphs())
def test_random_graphs_of_these(arm64, graph):
    compared(arm64, graph)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in EXAMPLES if not issubclass(kind, ops.FloatPart)],  # those compute here
    ids=lambda kind: kind.__name__,
)
def test_every_other_operator(arm64, kind):
    compared(arm64, EXAMPLES[kind], samples=16)


@pytest.mark.parametrize(("bits", "storage"), [(4, "int4"), (2, "int4"), (2, "int2"), (1, "int2")])
def test_dense_layers_with_packed_weights(arm64, bits, storage):
    for features, rows in ((8, 1), (64, 1), (64, 16), (516, 3)):
        graph = dense(bits, features, units=40, rows=rows)
        stored = legalize(graph, get_target("litert"), storage)
        assert stored.storage == {"y": storage}
        compared(arm64, graph, samples=64, stored=stored)


@pytest.mark.parametrize("weight_bits", [2, 8])
def test_a_network_of_integers(arm64, weight_bits):
    compared(arm64, small_network(0, weight_bits))


@pytest.mark.parametrize("make", [every_kind_of_op, residual_network])
def test_the_file_of_a_model_is_proven_there(arm64, make, tmp_path):
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    qmodel = keras_qat.quantize(make(), config, calibration_data=X)
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", samples=X, runtimes=[arm64], verbose=False
    )
    assert report.verifications[-1].runtime.endswith("on aarch64")
    assert report.mismatches == 0
