"""CONTRIBUTING.md's code: each new thing is one file, which works with the public names alone."""

import importlib
import pathlib
import re
import sys

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.quantizers import Grid
from tests.models import images, residual_network

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Imports a file of CONTRIBUTING.md by its name, from a folder of its own."""
    folder = tmp_path_factory.mktemp("new_things")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    yield importlib.import_module
    sys.path.remove(str(folder))
    for name in FILES:
        sys.modules.pop(name, None)


def trained_and_proven(model, config, x, folder):
    """Quantizes, trains for an epoch, saves, loads and exports; the model that was loaded."""
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    targets = np.zeros((len(x), *qmodel.output_shape[1:]), np.float32)
    qmodel.compile(keras.optimizers.SGD(0.01), "mse")
    qmodel.fit(x, targets, batch_size=16, epochs=1, verbose=0)
    qmodel.save(folder / "model.keras")
    loaded = keras_qat.load_model(folder / "model.keras")
    report = tflite_export.export(
        loaded, folder / "model.tflite", samples=x, min_argmax_agreement=0.0, verbose=False
    )
    assert report.mismatches == 0
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    return loaded


def test_it_shows_these_files():
    assert list(FILES) == ["damped", "unclipped", "channels_first"]


def test_every_path_that_it_names_is_there():
    named = set(re.findall(r"`((?:[.\w-]+/)*[.\w-]+(?:/|\.py|\.md|\.cfg|\.toml))`", TEXT))
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.slow
def test_a_new_estimator(new, tmp_path):
    new("damped")
    assert keras_qat.Estimator("damped")(2.0, -0.5, None) == 1.5
    assert keras_qat.Estimator("damped", {"damping": 0.2})(2.0, -0.5, None) == 1.8
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4, estimator="damped")
    loaded = trained_and_proven(residual_network(), config, images(32), tmp_path)
    assert {q.estimator.name for q in loaded.quantizers} == {"damped", "ste"}  # inputs: fixed


@pytest.mark.slow
def test_a_new_quantizer_and_its_config(new, tmp_path):
    unclipped = new("unclipped")
    config = unclipped.UnclippedConfig(weight_bits=4, activation_bits=4)
    loaded = trained_and_proven(residual_network(), config, images(32), tmp_path)
    kinds = {unclipped.UnclippedWeightQuantizer, unclipped.UnclippedActivationQuantizer}
    assert kinds <= {type(quantizer) for quantizer in loaded.quantizers}
    quantizer = unclipped.UnclippedWeightQuantizer(Grid.for_weights(3))
    x = np.array([[-9.0, -0.4, 0.6, 9.0]], np.float32)
    np.testing.assert_array_equal(quantizer(x), [[-4.0, 0.0, 1.0, 3.0]])
    np.testing.assert_array_equal(quantizer.codes(x), quantizer(x))


def test_a_new_layer(new, tmp_path):
    channels_first = new("channels_first")
    inputs = keras.Input((8, 4), name="signal")
    x = keras.layers.Conv1D(6, 3, activation="relu", name="conv")(inputs)
    x = channels_first.ChannelsFirst(name="swap")(x)
    model = keras.Model(inputs, keras.layers.Conv1D(3, 1, name="head")(x))
    data = np.random.default_rng(0).normal(size=(32, 8, 4)).astype(np.float32)
    loaded = trained_and_proven(model, keras_qat.LSQConfig(), data, tmp_path)
    assert "swap" in loaded.to_integer().tensors
    assert type(loaded.get_layer("swap")) is channels_first.ChannelsFirst
