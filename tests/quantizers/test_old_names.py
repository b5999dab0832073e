"""Files and programs of earlier releases, in which one class quantized weights and activations.

`old_files` holds models that such a release saved after one step of training, each with its
outputs, its weights, and its weights after one more step: Conv1D, PReLU, attention, Dense, Softmax.
"""

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.quantized_layers import QuantizeDense
from keras_qat.quantizers import (
    DoReFaQuantizer,
    Grid,
    LSQActivationQuantizer,
    LSQQuantizer,
    LSQWeightQuantizer,
    PACTQuantizer,
    SlopeQuantizer,
    STEActivationQuantizer,
    STEQuantizer,
)
from keras_qat.quantizers.old_names import deserialize_weight_quantizer
from tests.golden.make_models import versions

FILES = pathlib.Path(__file__).parent / "old_files"
KINDS = {
    "lsq": {STEActivationQuantizer, LSQActivationQuantizer, LSQWeightQuantizer, SlopeQuantizer},
    "dorefa": {STEActivationQuantizer, PACTQuantizer, DoReFaQuantizer, SlopeQuantizer},
}
every_file = pytest.mark.parametrize("name", KINDS)
deprecated = pytest.mark.filterwarnings("ignore:keras_qat.* is deprecated:DeprecationWarning")


def tolerance():
    same = json.loads((FILES / "made_with.json").read_text()) == versions()
    return 0.0 if same else 1e-4  # float32 sums in another order


def check(qmodel, name):
    """Computes and trains as the release that saved it."""
    values = np.load(FILES / f"{name}.npz")
    weights, stepped = (
        [values[key] for key in sorted(values.files) if key.startswith(f"{kind}/")]
        for kind in ("weights", "stepped")
    )
    for found, expected in zip(qmodel.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    outputs = qmodel.predict(values["inputs"], verbose=0)
    np.testing.assert_allclose(outputs, values["outputs"], rtol=0, atol=tolerance())
    loss = "sparse_categorical_crossentropy"
    qmodel.compile(keras.optimizers.SGD(1e-2), loss, jit_compile=False)
    qmodel.train_on_batch(values["inputs"], values["labels"])
    for found, expected in zip(qmodel.get_weights(), stepped, strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance(), atol=tolerance())


@every_file
def test_an_old_file_loads_with_the_quantizers_of_today(name):
    qmodel = keras_qat.load_model(FILES / f"{name}.keras")
    assert {type(quantizer) for quantizer in qmodel.quantizers} == KINDS[name]
    check(qmodel, name)


@every_file
def test_saved_again_it_has_no_old_name(name, tmp_path):
    path = tmp_path / "again.keras"
    keras_qat.load_model(FILES / f"{name}.keras").save(path)
    config = zipfile.ZipFile(path).read("config.json").decode()
    assert "LSQQuantizer" not in config
    assert "STEQuantizer" not in config
    check(keras_qat.load_model(path), name)


@pytest.mark.parametrize("old", ["lsq.weights.h5", "lsq.keras"])
def test_old_weights_load_into_a_model_of_today(old):
    qmodel = keras_qat.load_model(FILES / "lsq.keras")
    for weight in qmodel.weights:
        weight.assign(np.zeros(weight.shape))
    qmodel.load_weights(FILES / old)
    check(qmodel, "lsq")
    assert {type(quantizer) for quantizer in qmodel.quantizers} == KINDS["lsq"]


def test_weights_of_today_load_and_what_is_not_there_is_said(tmp_path):
    qmodel = keras_qat.load_model(FILES / "lsq.keras")
    qmodel.save_weights(tmp_path / "new.weights.h5")
    qmodel.load_weights(tmp_path / "new.weights.h5")
    check(qmodel, "lsq")
    with pytest.raises(Exception, match="missing"):
        qmodel.load_weights(tmp_path / "missing.weights.h5")


@pytest.mark.parametrize("name", ["LSQQuantizer", "STEQuantizer"])
def test_the_old_classes_still_make_what_they_made(name):
    kind, method = getattr(keras_qat, name), name[:3]
    with pytest.warns(
        DeprecationWarning, match=rf"{name} is .*: use {method}Weight.* or {method}Act"
    ):
        quantizer = kind(Grid.for_weights(3), per_channel=True, code_regularization=0.5)
    wrapper = QuantizeDense(keras.layers.Dense(4), quantizer)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    wrapper(x)
    quantizer.calibrate_weights(wrapper.layer.kernel.numpy())
    assert wrapper.weight_codes().shape == (3, 4)
    assert quantizer.get_config()["code_regularization"] == 0.5
    with pytest.warns(DeprecationWarning, match=name):
        quantizer = kind(Grid.for_activations(3, signed=True), name="activations")
    np.testing.assert_array_equal(quantizer(x, pooled=True), np.asarray(quantizer.codes(x, True)))


@deprecated
def test_what_the_old_classes_made_is_saved_and_loads_as_those_of_today(tmp_path):
    inputs = keras.Input((3,))
    quantized = LSQQuantizer(Grid.for_activations(3, signed=True), name="first")(inputs)
    weights = STEQuantizer(Grid.for_weights(3), per_channel=True, name="weight_quantizer")
    outputs = QuantizeDense(keras.layers.Dense(4), weights)(quantized)
    model = keras.Model(inputs, LSQQuantizer(Grid(-4, 3), name="second")(outputs))
    model.layers[1].set_scale(0.25)
    model.layers[3].scale_ratio.assign(2.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kinds = [type(layer).__name__ for layer in loaded.layers]
    assert kinds == [
        "InputLayer",
        "LSQActivationQuantizer",
        "QuantizeDense",
        "LSQActivationQuantizer",
    ]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))


@deprecated
def test_a_subclass_of_ones_own_stays_itself(tmp_path):
    @keras.saving.register_keras_serializable(package="tests")
    class Mine(LSQQuantizer):
        pass

    assert type(Mine.from_config(Mine(Grid(-2, 1), per_channel=True).get_config())) is Mine
    config = keras.saving.serialize_keras_object(Mine(Grid(-2, 1)))
    assert type(deserialize_weight_quantizer(config)) is Mine


def test_old_configs_of_activations_state_options_of_weights():
    config = PACTQuantizer(Grid(0, 3)).get_config()
    old = {**config, "per_channel": False, "code_regularization": 0.0}
    assert PACTQuantizer.from_config(old).get_config() == config
    with pytest.raises(ValueError, match="has a scale for each channel"):
        PACTQuantizer.from_config({**old, "per_channel": True})
