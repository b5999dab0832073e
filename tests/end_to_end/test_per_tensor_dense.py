"""Dense layers with one weight scale: less RAM in TFLite Micro, and the same integers."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat import config as configs
from keras_qat.quantized_layers import QuantizeDense
from tests.models import randomize
from tests.seams import target_flips

layers = keras.layers
pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

X = np.random.default_rng(0).normal(0, 1, (64, 24)).astype(np.float32)
CONFIG = keras_qat.LSQConfig(weight_bits=4, activation_bits=8, per_tensor_dense=True)


def autoencoder(units=(16, 4, 16)):
    x = inputs = keras.Input((24,))
    for number, each in enumerate(units):
        x = layers.Dense(each, name=f"dense{number}", use_bias=number != 1)(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"norm{number}")(x))
    return randomize(keras.Model(inputs, layers.Dense(24, name="last")(x)))


def quantized(model, config=CONFIG, x=X, **options):
    return keras_qat.quantize(model, config, calibration_data=x, **options)


def dense_layers(qmodel):
    return [layer for layer in qmodel.layers if isinstance(layer, QuantizeDense)]


def test_one_scale_saves_eight_bytes_of_ram_for_each_unit():
    each, shared = (
        tflite_export.plan_memory(
            quantized(autoencoder(), dataclasses.replace(CONFIG, per_tensor_dense=one))
        )
        for one in (False, True)
    )
    units = 16 + 4 + 16 + 24
    assert each.structure_bytes - shared.structure_bytes == 8 * units
    assert shared.measured_arena_bytes <= each.measured_arena_bytes - 8 * units + 32


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["lsq", "gdnsq", "dorefa"])
def test_no_code_differs_from_the_file(bits, name, tmp_path):
    config = dataclasses.replace(
        configs.get(name), weight_bits=bits, activation_bits=bits, per_tensor_dense=True
    )
    if name == "gdnsq":
        config = dataclasses.replace(config, start_bits=bits)
    qmodel = quantized(autoencoder(), config, target="tflm")
    assert target_flips(qmodel, X, "tflm") == {}
    for storage in ("int8", "lut"):
        path = tmp_path / f"{storage}.tflite"
        report = tflite_export.export(
            qmodel, path, target="tflm", samples=X, weight_storage=storage
        )
        assert report.mismatches == 0
    qmodel.compute_as("tflm", weight_storage="int4")
    assert target_flips(qmodel, X, "tflm", "int4") == {}
    qmodel.compute_as("litert")
    assert target_flips(qmodel, X, "litert") == {}


def test_each_layer_has_one_scale_and_one_table():
    qmodel = quantized(autoencoder())
    assert all(layer.weight_quantizer.scale.shape == () for layer in dense_layers(qmodel))
    linear = [op for op in qmodel.to_integer().ops if hasattr(op, "weight")]
    assert [op.weight.qparams.axis for op in linear] == [None] * 4
    plan = tflite_export.plan_memory(qmodel, weight_storage="lut")
    (table,) = {each.table_bytes for each in plan.weights if each.bits == 4}
    assert table <= 16 + 15  # a header, and a value for each code


def test_normalizations_are_folded_before_training():
    model = autoencoder()
    qmodel = quantized(model)
    kept = [layer.name for layer in qmodel.layers]
    assert not [name for name in kept if name.startswith("norm")]
    assert all(layer.layer.use_bias for layer in dense_layers(qmodel))
    probe = keras.Sequential([keras.Input((24,))])
    first = qmodel.get_layer("dense0").layer
    norm = keras.Model(model.input, model.get_layer("norm0").output)
    probe.add(layers.Dense(16))
    probe.set_weights([first.kernel, first.bias])
    expected, found = norm.predict(X, verbose=0), probe.predict(X, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_plan_is_what_quantize_does():
    model = autoencoder()
    planned = keras_qat.plan(model, CONFIG, calibration_data=X)
    assert planned == quantized(model).plan
    assert [layer.one_scale for layer in planned.layers if layer.weight_bits] == [True] * 4


def shared_normalization():
    norm = layers.BatchNormalization(name="norm")
    inputs = keras.Input((24,))
    x = norm(layers.Dense(8, name="a")(inputs))
    x = norm(layers.Dense(8, name="b")(layers.ReLU()(x)))
    return randomize(keras.Model(inputs, layers.Dense(3, name="c")(x)))


def test_what_cannot_be_folded_is_named_and_keeps_its_scales():
    with pytest.warns(UserWarning, match="keeps a weight scale for each unit") as said:
        qmodel = quantized(shared_normalization())
    texts = [str(each.message) for each in said if "per_tensor_dense" in str(each.message)]
    assert [text.split("'")[1] for text in texts] == ["a", "b"]
    assert "'norm' (BatchNormalization) behind it has a gain for each unit" in texts[0]
    assert [layer.one_scale for layer in dense_layers(qmodel)] == [False, False, True]


@pytest.mark.parametrize("order", [0, 1])
def test_all_calls_of_a_layer_decide_alike(order):
    """The one call has a gain for each unit behind it, the other has none."""
    dense, norm = layers.Dense(6, name="d"), layers.BatchNormalization(name="norm")
    x = inputs = keras.Input((6,))
    for call in range(2):
        x = dense(x)
        x = layers.ReLU()(norm(x) if call == order else x)
    model = randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))
    with pytest.warns(UserWarning, match="'d' keeps a weight scale for each unit") as said:
        qmodel = quantized(model, x=X[:, :6])
    assert sum("'d' keeps" in str(each.message) for each in said) == 1
    planned = [layer.one_scale for layer in qmodel.plan.layers if layer.name == "d"]
    assert planned == [False, False]
    assert [layer.one_scale for layer in dense_layers(qmodel)] == [False, True]
    assert target_flips(qmodel, X[:, :6], "litert") == {}


BOUND = {
    "kernel_constraint": lambda: ({"kernel_constraint": keras.constraints.MaxNorm(1.0)}, {}),
    "bias_regularizer": lambda: ({"bias_regularizer": "l2"}, {}),
    "gamma_regularizer": lambda: ({}, {"gamma_regularizer": "l2"}),
    "beta_constraint": lambda: ({}, {"beta_constraint": keras.constraints.NonNeg()}),
    "activity_regularizer": lambda: ({"activity_regularizer": "l2"}, {}),
    "frozen": lambda: ({"trainable": False}, {}),
}


@pytest.mark.parametrize("kind", BOUND)
def test_what_holds_for_other_weights_is_not_folded(kind):
    of_dense, of_norm = BOUND[kind]()
    inputs = keras.Input((24,))
    x = layers.Dense(8, name="dense", **of_dense)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm", **of_norm)(x))
    model = randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))
    with pytest.warns(UserWarning, match="train both or neither, and have no regularizer or"):
        qmodel = quantized(model)
    assert qmodel.get_layer("norm")
    assert [layer.one_scale for layer in dense_layers(qmodel)] == [False, True]


@pytest.mark.parametrize("behind", ["hard_silu", "hard_sigmoid", "halved"])
def test_one_gain_for_all_units_keeps_one_scale(behind, tmp_path):
    inputs = keras.Input((24,))
    x = layers.Dense(8, name="dense")(inputs)
    if behind == "halved":
        x = layers.ReLU()(layers.Rescaling(-0.5, 0.25)(layers.BatchNormalization(name="norm")(x)))
    else:
        x = layers.Activation(behind)(x)
    model = randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))
    qmodel = quantized(model, target="ethos-u")
    assert [layer.one_scale for layer in dense_layers(qmodel)] == [True, True]
    assert target_flips(qmodel, X, "ethos-u") == {}
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, target="ethos-u", samples=X, verbose=False)
    assert report.mismatches == 0


def test_an_untrained_network_still_looks_untrained():
    x = inputs = keras.Input((24,))
    x = layers.Dense(8, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(inputs, layers.Dense(3, use_bias=False)(x))
    each = [
        quantized(model, dataclasses.replace(CONFIG, per_tensor_dense=one), X + 100.0)
        for one in (False, True)
    ]
    assert [qmodel.starts_untrained for qmodel in each] == [True, True]


def test_an_override_of_a_normalization_keeps_it():
    other = dataclasses.replace(CONFIG, activation_bits=4)
    with pytest.warns(UserWarning, match="'dense0' keeps a weight scale for each unit"):
        qmodel = quantized(autoencoder(), overrides={"norm0": other})
    assert qmodel.get_layer("norm0")
    assert [layer.one_scale for layer in dense_layers(qmodel)] == [False, True, True, True]


def test_it_is_saved_and_cloned(tmp_path):
    qmodel = quantized(autoencoder(), target="tflm")
    qmodel.save(tmp_path / "model.keras")
    copies = [keras_qat.load_model(tmp_path / "model.keras"), keras.models.clone_model(qmodel)]
    copies[1].set_weights(qmodel.get_weights())
    for copy in copies:
        assert all(layer.one_scale for layer in dense_layers(copy))
        np.testing.assert_array_equal(copy.predict(X, verbose=0), qmodel.predict(X, verbose=0))


def test_a_quantizer_with_a_scale_for_each_unit_is_refused():
    quantizer = keras_qat.LSQConfig(per_channel=True).weight_quantizer(8)
    with pytest.raises(
        ValueError, match=r"'wide': one_scale=True needs .* Give it per_channel=Fal"
    ):
        QuantizeDense(layers.Dense(2, name="wide"), quantizer, one_scale=True)


def test_a_bias_beyond_int32_names_the_way_out():
    """A unit without weights has no unit of its own for its bias."""
    model = keras.Sequential([keras.Input((24,)), layers.Dense(3, name="dense")])
    kernel = np.full((24, 3), 1e-12, np.float32)
    model.set_weights([kernel, np.float32([1.0, -1.0, 0.5])])
    x = np.zeros((8, 24), np.float32)
    qmodel = quantized(model, x=x)
    with pytest.raises(keras_qat.LoweringError, match="per_tensor_dense=False"):
        qmodel.to_integer()
    quantized(model, keras_qat.LSQConfig(weight_bits=4), x=x).to_integer()
