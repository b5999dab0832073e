"""Subclassed models, layers made of layers, registered rules and layers left in float."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import ops as integer_ops
from keras_qat.layer_rules.table import RULES
from tests.models import images, randomize

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers


class Block(layers.Layer):
    """A convolution with a shortcut, as users write one."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training) + x)


class Classifier(keras.Model):
    def __init__(self):
        super().__init__(name="classifier")
        self.stem = layers.Conv2D(4, 3, activation="relu", name="stem")
        self.block = Block(4, name="block")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=None):
        return self.head(self.pool(self.block(self.stem(x), training=training)))


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__(name="two")
        self.left, self.right = layers.Dense(3, name="l"), layers.Dense(3, name="r")

    def call(self, inputs):
        return {"sum": self.left(inputs["a"]) + self.right(inputs["b"])}


@pytest.fixture
def x():
    return images(16, (8, 8, 3))


def exported(qmodel, x, path):
    report = tflite_export.export(qmodel, path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    return report


def test_a_subclassed_model_is_taken_apart(x, tmp_path):
    model = Classifier()
    model(x)
    model.block.norm.moving_variance.assign(
        np.linspace(0.5, 2.0, model.block.norm.moving_variance.shape[0])
    )
    before, weights = model.predict(x, verbose=0), model.get_weights()
    qmodel = keras_qat.quantize(model, calibration_data=x)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert all(map(np.array_equal, model.get_weights(), weights))
    names = {layer.name for layer in qmodel.layers}
    assert {"stem", "conv", "norm", "pool", "head"} <= names
    assert np.abs(qmodel.predict(x, verbose=0) - before).max() < 0.1 * np.abs(before).max()
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((16, 3)), verbose=0)
    exported(qmodel, x, tmp_path)


def test_inputs_and_outputs_by_name():
    data = {"a": images(8, (4,)), "b": images(8, (5,), seed=1)}
    model = TwoInputs()
    model(data)
    qmodel = keras_qat.quantize(model, calibration_data=data)
    assert qmodel(data)["sum"].shape == (8, 3)
    assert sorted(qmodel.to_integer().inputs) == ["a", "b"]


def test_layers_made_of_layers_are_taken_apart(x, tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(4, 1, name="stem")(inputs)
    model = keras.Model(inputs, Block(4, name="second")(Block(4, name="first")(stem)))
    randomize(model)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert {"conv", "conv_1", "norm", "norm_1"} <= {layer.name for layer in qmodel.layers}
    exported(qmodel, x, tmp_path)


def test_an_unbuilt_subclassed_model_says_what_to_do(x):
    with pytest.raises(ValueError, match="'classifier' has no weights yet"):
        keras_qat.quantize(Classifier(), calibration_data=x)


def test_a_call_that_needs_numbers_says_what_to_do(x):
    class Impossible(Classifier):
        def call(self, x):
            return super().call(x) * np.asarray(x).mean()

    model = Impossible()
    model.built = True
    with pytest.raises(ValueError, match="Write it with layers and"):
        keras_qat.quantize(model, calibration_data=x)


def test_data_that_is_read_once_shows_no_shapes(x):
    model = Classifier()
    model(x)
    with pytest.raises(ValueError, match="can be read twice"):
        keras_qat.quantize(model, calibration_data=(batch for batch in [x]))


@keras.saving.register_keras_serializable(package="test")
class Swap(layers.Layer):
    """Exchanges height and width, with an operation that has no layer."""

    def call(self, x):
        return keras.ops.einsum("bhwc->bwhc", x)


def lower_swap(layer, operands, context):
    return context.same_grid(integer_ops.Transpose((operands[0],), context.name, (2, 1, 3)))


def with_swap():
    inputs = keras.Input((8, 6, 3), name="image")
    x = Swap(name="swap")(layers.Conv2D(4, 3, name="conv")(inputs))
    return randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))


def test_a_registered_rule_deploys_a_layer_of_the_users_own(tmp_path, monkeypatch):
    x = images(16, (8, 6, 3))
    monkeypatch.setitem(RULES, Swap, None)
    del RULES[Swap]
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'swap' \(Swap\): no rule"):
        keras_qat.quantize(with_swap(), calibration_data=x)
    rule = keras_qat.Rule(keras_qat.Output.SAME_AS_INPUT, lower_swap)
    keras_qat.register_rule(Swap, rule)
    qmodel = keras_qat.quantize(with_swap(), calibration_data=x)
    assert exported(qmodel, x, tmp_path).comparison.flip_rate == 0.0


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("Swap", keras_qat.Rule(keras_qat.Output.FIXED), "layer_type must be a subclass"),
        (Swap, lower_swap, "rule must be a keras_qat.Rule"),
    ],
)
def test_what_is_no_rule_is_refused(kind, rule, message):
    with pytest.raises(ValueError, match=message):
        keras_qat.register_rule(kind, rule)


def test_a_layer_without_a_rule_stays_in_float_where_the_user_says_so(x, tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    y = layers.Resizing(6, 6, name="resized")(layers.Conv2D(4, 3, name="conv")(inputs))
    y = layers.Flatten(name="flat")(layers.Conv2D(2, 3, name="second")(y))
    model = keras.Model(inputs, layers.Dense(2, name="head")(y))
    with pytest.raises(keras_qat.UnsupportedLayerError, match="its name: None"):
        keras_qat.quantize(model, calibration_data=x)
    qmodel = keras_qat.quantize(model, calibration_data=x, overrides={"resized": None})
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((16, 2)), verbose=0)
    assert isinstance(qmodel.get_layer("second"), keras_qat.quantized_layers.QuantizeConv2D)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert [part.layers for part in report.float_parts] == [("resized",)]
    path = tmp_path / "qat.keras"
    qmodel.save(path)
    np.testing.assert_array_equal(keras_qat.load_model(path)(x), qmodel(x))
