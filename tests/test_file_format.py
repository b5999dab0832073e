"""Files carry the version of their format: older ones load, newer ones are refused."""

import json
import zipfile

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.file_format import KEY, MODEL_FORMAT
from tests.models import images, randomize

layers = keras.layers
X = images(8, (6, 6, 3))


@pytest.fixture
def saved(tmp_path):
    inputs = keras.Input((6, 6, 3))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs))))
    qmodel = keras_qat.quantize(model, calibration_data=X)
    qmodel.save(tmp_path / "model.keras")
    return qmodel, tmp_path / "model.keras"


def with_version(path, version):
    """A copy of the file that says another version, or none."""
    other = path.with_name("other.keras")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                config = json.loads(data)
                assert config["config"].pop(KEY) == MODEL_FORMAT
                config["config"] |= {} if version is None else {KEY: version}
                data = json.dumps(config)
            target.writestr(name, data)
    return other


@pytest.mark.parametrize("version", [None, 1, MODEL_FORMAT])
def test_a_file_of_this_version_or_an_older_one_loads(saved, version):
    qmodel, path = saved
    loaded = keras_qat.load_model(with_version(path, version))
    np.testing.assert_array_equal(loaded(X), qmodel(X))
    assert loaded.get_config()[KEY] == MODEL_FORMAT


@pytest.mark.parametrize("version", [MODEL_FORMAT + 1, 0, "next"])
def test_a_newer_file_is_refused_in_a_sentence(saved, version):
    path = with_version(saved[1], version)
    with pytest.raises(ValueError, match=r"saved by a newer keras_qat: its format is .*Update"):
        keras_qat.load_model(path)
    with pytest.raises(ValueError, match="Update keras_qat"):
        keras.models.load_model(path)


def test_a_file_says_which_keras_qat_saved_it(saved):
    with zipfile.ZipFile(saved[1]) as archive:
        config = json.loads(archive.read("config.json"))["config"]
    assert config["keras_qat_version"] == keras_qat.__version__
    with pytest.raises(ValueError, match=rf"is 5 \(keras_qat {keras_qat.__version__}\), and"):
        keras_qat.load_model(with_version(saved[1], 5))


def test_a_clone_and_a_subclass_keep_the_version(saved, tmp_path):
    qmodel, _ = saved

    @keras.saving.register_keras_serializable(package="tests_of_the_format")
    class Mine(keras_qat.QuantizedModel):
        pass

    mine = Mine(qmodel.inputs, qmodel.outputs)
    mine.save(tmp_path / "mine.keras")
    assert type(keras_qat.load_model(tmp_path / "mine.keras")) is Mine
    assert keras.models.clone_model(qmodel).get_config()[KEY] == MODEL_FORMAT
