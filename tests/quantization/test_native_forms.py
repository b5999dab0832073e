"""What `target="ethos-u"` changes: functions on the grids, and in the forms, that the NPU runs."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat import config as configs
from keras_qat.quantization.passes.layer_copies import nothing_stays_float
from keras_qat.quantization.passes.native_forms import native_forms
from keras_qat.quantizers import STEActivationQuantizer
from keras_qat.targets import NATIVE_GRIDS
from tests.models import images, randomize

layers = keras.layers
pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

X = images(32, (8, 8, 3))
FUNCTIONS = ("sigmoid", "tanh", "silu", "hard_sigmoid", "hard_silu")


def network(functions=FUNCTIONS, at_the_end="sigmoid"):
    """A convolution with a BatchNormalization and each function behind it, and a gate."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    for name in functions:
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", name=f"of_{name}")(x))
        x = layers.Activation(name, name=name)(x)
    gate = layers.Conv2D(4, 1, activation="hard_sigmoid", name="gate")(
        layers.GlobalAveragePooling2D(keepdims=True)(x)
    )
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, gate]))
    return randomize(keras.Model(inputs, layers.Dense(2, activation=at_the_end, name="last")(x)))


def quantized(model=None, config=None, **options):
    options = {"calibration_data": X, "target": "ethos-u", **options}
    return keras_qat.quantize(model or network(), config, **options)


def test_the_forms_compute_what_the_functions_do():
    model = network()
    changed, added = native_forms(model, nothing_stays_float)
    expected, found = model.predict(X, verbose=0), changed.predict(X, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert added["silu_sigmoid"] == "silu"
    assert {added[f"hard_silu_{part}"] for part in ("sixth", "line", "gate")} == {"hard_silu"}
    names = {getattr(layer, "activation", None) for layer in changed.layers}
    assert not names & {keras.activations.silu, keras.activations.hard_silu}


def test_a_model_without_these_functions_is_returned_itself():
    model = network(("sigmoid", "tanh"))
    plain = keras.Model(model.input, model.get_layer("tanh").output)
    assert native_forms(plain, nothing_stays_float) == (plain, {})


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["lsq", "gdnsq", "pege"])
def test_functions_have_the_grids_of_the_npu(bits, name, tmp_path):
    config = configs.get(name)
    config = dataclasses.replace(config, weight_bits=bits, activation_bits=bits)
    if name == "gdnsq":
        config = dataclasses.replace(config, start_bits=bits)
    qmodel = quantized(config=config)
    grids = NATIVE_GRIDS["ethos-u"]
    expected = {"sigmoid": "sigmoid", "tanh": "tanh", "silu_sigmoid": "sigmoid"}
    for layer, function in {**expected, "last_sigmoid": "sigmoid"}.items():
        quantizer = qmodel.get_layer(f"{layer}_quantizer")
        assert isinstance(quantizer, STEActivationQuantizer)
        assert float(quantizer.scale) == grids[function]
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", target="ethos-u", samples=X, verbose=False
    )
    assert (report.mismatches, report.comparison.flip_rate) == (0, 0.0)
    codes = {row.operator for row in tflite_export.check(tmp_path / "net.tflite", "tflm").rows}
    assert {"LOGISTIC", "TANH"} <= codes
    assert "GATHER" not in codes


def test_a_tanh_of_what_is_never_negative_has_the_grid_of_the_npu(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.Conv2D(4, 3)(inputs))
    x = layers.Activation("tanh", name="tanh")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1)(x)))
    qmodel = quantized(model)
    quantizer = qmodel.get_layer("tanh_quantizer")
    assert (quantizer.grid.qmin, quantizer.grid.qmax) == (-128, 127)
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, target="ethos-u", samples=X, verbose=False)
    assert (report.mismatches, report.comparison.flip_rate) == (0, 0.0)
    assert "TANH" in {operator.code for operator in report.operators}


def test_the_whole_network_stays_on_the_npu():
    pytest.importorskip("ethosu.vela", reason="pip install 'keras_qat[ethosu]'")
    found = tflite_export.check(quantized(), "ethos-u")
    assert {row.fact.status for row in found.rows} == {"fast"}


def test_the_grids_stay_in_training():
    qmodel = quantized(network(at_the_end="sigmoid"))
    qmodel.compile("sgd", "binary_crossentropy")
    qmodel.train_on_batch(X, np.ones((32, 2), np.float32))
    assert float(qmodel.get_layer("tanh_quantizer").scale) == 2.0**-7
    assert not qmodel.get_layer("tanh_quantizer").trainable_variables


def test_the_plan_is_what_quantize_does():
    model = network()
    planned = keras_qat.plan(model, calibration_data=X, target="ethos-u")
    assert planned.layers == quantized(model).plan.layers
    assert planned.grids == quantized(model).plan.grids


@pytest.mark.parametrize("target", [None, "tflm", "litert"])
def test_other_targets_keep_their_tables(target):
    qmodel = quantized(target=target)
    assert "silu_sigmoid" not in [layer.name for layer in qmodel.layers]
    assert float(qmodel.get_layer("tanh_quantizer").scale) != 2.0**-7


def test_an_override_says_otherwise():
    own = keras_qat.LSQConfig(activation_bits=4)
    qmodel = quantized(overrides={"tanh|silu": own})
    assert qmodel.get_layer("tanh_quantizer").bits == 4
    assert qmodel.get_layer("silu_quantizer").bits == 4


def test_a_grid_shared_with_other_values_is_planned_as_any(tmp_path):
    inputs = keras.Input((8, 8, 3))
    both = [layers.Conv2D(2, 3, activation=name, name=name)(inputs) for name in ("tanh", "relu")]
    joined = layers.Concatenate(name="joined")(both)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1)(joined)))
    qmodel = quantized(model)
    assert float(qmodel.get_layer("joined_quantizer").scale) != 2.0**-7
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", target="ethos-u", samples=X, verbose=False
    )
    assert report.mismatches == 0
