"""Outputs, inputs and layers keep the names that the user gave them."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_qat
import tflite_export

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
BOXES, CLASSES = X[:, :4], np.arange(64) % 3


def heads():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="features")
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    box = layers.Dense(4, name="box")(x)
    return inputs, [box, layers.Dense(3, activation="softmax", name="cls")(x)]


def file_names(qmodel, tmp_path, samples=X):
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=samples, verbose=False)
    assert report.mismatches == 0
    (signature,) = Interpreter(model_path=str(path)).get_signature_list().values()
    return signature["inputs"], signature["outputs"]


def ways(qmodel, tmp_path):
    """The model itself, saved and loaded, cloned, and another one on its tensors."""
    qmodel.save(tmp_path / "model.keras")
    yield qmodel
    yield keras_qat.load_model(tmp_path / "model.keras")
    yield keras_qat.QuantizedModel(qmodel.inputs, qmodel.outputs)


def test_losses_by_name_fit_before_and_after(tmp_path):
    model = keras.Model(*heads())
    losses = {"box": "mse", "cls": "sparse_categorical_crossentropy"}
    told = {
        "loss": losses,
        "metrics": {"cls": ["accuracy"]},
        "loss_weights": {"box": 0.5, "cls": 1},
    }
    model.compile("sgd", **told)
    expected = set(model.fit(X, [BOXES, CLASSES], verbose=0).history)
    qmodel = keras_qat.quantize(model, calibration_data=X)
    for found in ways(qmodel, tmp_path):
        assert found.output_names == ["box", "cls"]
        found.compile("sgd", **told)
        assert set(found.fit(X, [BOXES, CLASSES], verbose=0).history) == expected
        assert file_names(found, tmp_path) == (["features"], ["box", "cls"])


def test_a_model_compiled_by_name_loads_compiled(tmp_path):
    qmodel = keras_qat.quantize(keras.Model(*heads()), calibration_data=X)
    qmodel.compile("sgd", {"box": "mse", "cls": "sparse_categorical_crossentropy"})
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    loaded.fit(X, [BOXES, CLASSES], verbose=0)
    assert loaded.output_kinds == [("values", None), ("scores", None)]


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_keys_of_a_dict_are_names(tmp_path):
    inputs, (box, cls) = heads()
    model = keras.Model({"numbers": inputs}, {"where": box, "what": cls})
    qmodel = keras_qat.quantize(model, calibration_data={"numbers": X})
    assert qmodel.output_names == model.output_names
    for found in list(ways(qmodel, tmp_path))[:2]:
        losses = {"where": "mse", "what": "sparse_categorical_crossentropy"}
        found.compile("sgd", losses)
        found.fit({"numbers": X}, {"where": BOXES, "what": CLASSES}, verbose=0)
        assert set(found.predict({"numbers": X}, verbose=0)) == {"where", "what"}
        # Signatures list their names in alphabetical order.
        assert file_names(found, tmp_path) == (["numbers"], ["what", "where"])
        kinds = dict(zip(found.output_labels, found.output_kinds, strict=True))
        assert kinds == {"where": ("values", None), "what": ("scores", None)}


def test_one_layer_called_twice(tmp_path):
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    dense = layers.Dense(3, name="shared")
    model = keras.Model([left, right], [dense(left), dense(right)])
    qmodel = keras_qat.quantize(model, calibration_data=[X, X])
    assert qmodel.output_names == model.output_names
    names = file_names(qmodel, tmp_path, [X, X])
    assert names == (["left", "right"], ["shared", "shared_1"])
    assert qmodel.to_integer().outputs == ("shared", "shared_1")


def test_an_output_listed_twice_is_refused():
    """A file names its outputs, so it would have one where the model returns two."""
    inputs, (box, _) = heads()
    with pytest.raises(ValueError, match=r"lists an output twice.*List each output once"):
        keras_qat.quantize(keras.Model(inputs, [box, box]), calibration_data=X)


def nested():
    def part(name):
        inputs = keras.Input((6,))
        return keras.Model(
            inputs, layers.Dense(5, activation="relu", name="conv")(inputs), name=name
        )

    inputs = keras.Input((6,), name="features")
    both = layers.Concatenate()([part("left")(inputs), part("right")(inputs)])
    return keras.Model(inputs, layers.Dense(2, name="head")(both))


def test_the_output_of_an_inner_model_has_its_name(tmp_path):
    inputs = keras.Input((6,), name="features")
    base = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="inner")], name="base")
    qmodel = keras_qat.quantize(keras.Model(inputs, base(inputs)), calibration_data=X)
    assert qmodel.output_names == ["base"]
    assert file_names(qmodel, tmp_path)[1] == ["base"]


def bits(qmodel):
    planned = {layer.name: layer.weight_bits for layer in qmodel.plan.layers}
    return {name: value for name, value in planned.items() if value}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("left/conv", {"conv": 3, "conv_1": 8, "head": 8}),
        ("right/conv", {"conv": 8, "conv_1": 3, "head": 8}),
        ("right/.*", {"conv": 8, "conv_1": 3, "head": 8}),
        ("conv", {"conv": 3, "conv_1": 8, "head": 8}),
        (".*/conv", {"conv": 3, "conv_1": 3, "head": 8}),
    ],
)
def test_overrides_know_the_paths_of_inner_models(pattern, expected):
    override = {pattern: keras_qat.LSQConfig(weight_bits=3)}
    qmodel = keras_qat.quantize(nested(), overrides=override, calibration_data=X)
    assert bits(qmodel) == expected


def test_the_plan_shows_paths():
    planned = keras_qat.plan(nested(), calibration_data=X)
    assert {layer.name: layer.path for layer in planned.layers if layer.weight_bits} == {
        "conv": "left/conv",
        "conv_1": "right/conv",
        "head": "",
    }
    assert "left/conv " in str(planned)


def test_a_path_leaves_a_layer_in_float():
    qmodel = keras_qat.quantize(nested(), overrides={"right/conv": None}, calibration_data=X)
    assert bits(qmodel) == {"conv": 8, "head": 8}
    with pytest.raises(ValueError, match=r"'middle/conv' matches no layer.*right/conv"):
        keras_qat.quantize(nested(), overrides={"middle/conv": None}, calibration_data=X)


def test_a_model_of_old_files_keeps_its_names():
    """A loss by name in an old file has the names that outputs had then."""
    qmodel = keras_qat.quantize(keras.Model(*heads()), calibration_data=X)
    config = qmodel.get_config()
    del config["output_names"], config["output_labels"]
    old = keras_qat.QuantizedModel.from_config(config)
    assert old.output_names == ["box_quantizer", "cls_softmax_quantizer"]
    assert old.to_integer().outputs == ("box", "cls_softmax")
