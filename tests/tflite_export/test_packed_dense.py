"""Dense layers for LiteRT with INT4 and INT2 weights: exact in XNNPACK, and in the Keras model."""

import functools

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from hypothesis import given

import keras_qat
from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import random_codes
from tests.tflite_export.harness import exact_law
from tflite_export import ExportError, check, export, predict, verify
from tflite_export.file.litert_privates import taken_by_xnnpack
from tflite_export.file.writer import read_model, write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

LITERT = get_target("litert")
REACH = {1: (-1, 1), 2: (-2, 1), 3: (-3, 3), 4: (-8, 7), 5: (-15, 15)}


def dense(
    bits: int, features: int, units: int = 6, rows: int = 1, seed: int = 0, scale: float = 2.0**-7
) -> IntegerGraph:
    builder, rng = GraphBuilder(), np.random.default_rng(seed)
    x = builder.add_input("x", (1, rows, features), QuantParams(np.float32(0.03), 3))
    low, high = REACH[bits]
    values = rng.integers(low, high + 1, (units, features)).astype(np.int8)
    values[0, :2] = low, high
    scales = (scale * rng.uniform(0.5, 2.0, units)).astype(np.float32)
    weight = ops.QuantizedArray(values, QuantParams(scales, 0, min(low, -high), high, 0))
    bias = rng.normal(size=units)
    op = ops.FullyConnected((x,), "y", weight, bias, "relu", weight_bits=bits)
    return builder.build((builder.add(op, QuantParams(np.float32(0.05), -128)),))


def stored_as(graph: IntegerGraph, storage: str) -> str:
    return legalize(graph, LITERT, storage).storage["y"]


@pytest.mark.parametrize(
    ("bits", "features", "in_int4", "in_int2"),
    [
        (1, 8, "int4", "int2"),
        (2, 8, "int4", "int2"),
        (2, 6, "int4", "int4"),  # rows of INT2 weights have to be whole bytes
        (2, 7, "int8", "int8"),
        (4, 8, "int4", "int4"),  # does not fit in INT2
        (4, 7, "int8", "int8"),
        (5, 8, "int8", "int8"),
    ],
)
def test_a_storage_is_taken_where_weights_fit_and_xnnpack_has_a_kernel(
    bits, features, in_int4, in_int2
):
    graph = dense(bits, features)
    assert [stored_as(graph, each) for each in ("int4", "int2")] == [in_int4, in_int2]
    assert stored_as(graph, "auto") == "int8"


def test_convolutions_stay_int8():
    """XNNPACK leaves one with INT4 weights to a kernel that takes nine times as long."""
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4, 4, 4), QuantParams(np.float32(0.1)))
    grid = QuantParams(np.full(4, 0.01, np.float32), 0, -1, 1, 0)
    weight = ops.QuantizedArray(np.ones((4, 1, 1, 4), np.int8), grid)
    op = ops.Conv2D((x,), "y", weight, np.zeros(4), weight_bits=2)
    graph = builder.build((builder.add(op, QuantParams(np.float32(0.1))),))
    assert [stored_as(graph, each) for each in ("int4", "int2")] == ["int8", "int8"]


@exact_law
@given(
    bits=st.integers(1, 4),
    features=st.integers(1, 40),
    units=st.integers(1, 20),
    rows=st.integers(1, 3),
    seed=st.integers(0, 99),
    storage=st.sampled_from(["int4", "int2"]),
    scale=st.floats(-14, -4).map(lambda power: 2.0**power),
)
def test_both_runtimes_compute_them_exactly(bits, features, units, rows, seed, storage, scale):
    graph = dense(bits, max(features, 2), units, rows, seed, scale)
    stored = legalize(graph, LITERT, storage)
    data = write_model(emit_model(stored))
    for result in verify(graph, data, "litert", random_codes(graph)):
        assert result.differing == 0
    assert taken_by_xnnpack(data)


@pytest.mark.parametrize(("bits", "storage"), [(4, "int4"), (2, "int2"), (2, "int4")])
def test_the_file_holds_the_integers_in_fewer_bytes(bits, storage):
    graph = dense(bits, features=64, units=32)
    packed, plain = (emit_model(legalize(graph, LITERT, each)) for each in (storage, "int8"))
    data = write_model(packed)
    found = read_model(data).tensors["y/weight"]
    assert found.dtype == storage
    np.testing.assert_array_equal(found.data, packed.tensors["y/weight"].data)
    share = {"int4": 2, "int2": 4}[storage]
    assert len(write_model(plain)) - len(data) == 64 * 32 - 64 * 32 // share


@functools.cache
def trained(weight_bits: int) -> tuple[keras.Model, np.ndarray]:
    """A model that infers as LiteRT does; tests that change this take it back."""
    keras.utils.set_random_seed(weight_bits)
    x = np.random.default_rng(0).normal(size=(512, 20)).astype("float32")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(24, name="hidden"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(16, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x, x[:, :10].argmax(-1), epochs=1, verbose=0)
    config = keras_qat.LSQConfig(weight_bits=weight_bits, activation_bits=8)
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    qmodel.compile("adam", loss)
    qmodel.fit(x, x[:, :10].argmax(-1), epochs=1, verbose=0)
    return qmodel, x


@pytest.mark.parametrize("storage", ["int4", "int2"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_model_computes_as_its_file(tmp_path, bits, storage):
    """`compute_as` knows that fewer bits leave biases less room; no code differs then."""
    qmodel, x = trained(bits)
    path = tmp_path / "net.tflite"
    report = export(qmodel, path, weight_storage=storage, samples=x, verbose=False)
    assert (report.mismatches, report.comparison.flip_rate) == (0, 0)
    inner = {each.storage for each in report.weights[1:-1]}
    assert inner == {"int2" if storage == "int2" and bits <= 2 else "int4"}
    assert f"compute_as('litert', {storage!r})" in report.evaluation.advice
    needed = {"int2": "INT2 weights need LiteRT 2.1.2", "int4": "INT4 weights need LiteRT 1.3.0"}
    assert all(needed[each] in report.summary() for each in inner)
    qmodel.compute_as("litert", storage)
    assert qmodel.computes_as == f"litert, weights as {storage}"
    np.testing.assert_array_equal(predict(path, x[:64]), qmodel.predict(x[:64], verbose=0))
    again = export(qmodel, path, weight_storage=storage, samples=x, verbose=False)
    assert again.evaluation is None
    assert again.file_bytes == report.file_bytes
    qmodel.compute_as("litert")


def test_the_choice_is_saved_and_taken_back(tmp_path):
    qmodel, x = trained(2)
    before = qmodel.predict(x, verbose=0)
    qmodel.compute_as("litert", "int2")
    within = qmodel.predict(x, verbose=0)
    assert np.any(before != within)
    qmodel.save(tmp_path / "net.keras")
    qmodel.compute_as("litert")
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    assert loaded.computes_as == "litert, weights as int2"
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), within)
    loaded.compute_as("litert")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), before)


def test_arm64_rounds_with_fewer_bits_too(tmp_path):
    qmodel, x = trained(2)
    qmodel.compute_as("xnnpack-arm64", "int2")
    assert qmodel.computes_as == "xnnpack-arm64, weights as int2"
    report = export(
        qmodel, tmp_path / "net.tflite", weight_storage="int2", samples=x, verbose=False
    )
    assert report.comparison.flip_rate == 0
    assert report.evaluation is None
    assert qmodel.computes_as == "xnnpack-arm64, weights as int2"
    qmodel.compute_as("litert")


def test_check_says_that_xnnpack_takes_it():
    graph = dense(2, 8)
    (row,) = check(graph, "litert-cpu", weight_storage="int2").rows
    assert (row.operator, row.fact.status) == ("FULLY_CONNECTED", "fast")


def test_int2_is_refused_for_microcontrollers(tmp_path):
    with pytest.raises(ValueError, match="loads weights as int8, int4, lut"):
        export(dense(2, 8), tmp_path / "net.tflite", target="tflm", weight_storage="int2")
    qmodel, _ = trained(2)
    with pytest.raises(ValueError, match="weight_storage for target 'tflm' must be one of"):
        qmodel.compute_as("tflm", "int2")


def test_a_changed_weight_is_found():
    graph = dense(2, 8)
    file = emit_model(legalize(graph, LITERT, "int2"))
    file.tensors["y/weight"].data[0, 0] ^= 1
    with pytest.raises(ExportError):
        verify(graph, write_model(file), "litert", random_codes(graph))
