"""Layers that compute the same as others become those, under their names."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_qat
from keras_qat.errors import UnsupportedLayerError
from tests.models import images, randomize
from tests.quantization.passes.rewritten import (
    after_a_layer,
    assert_deploys,
    assert_equal_in_layers,
)

pytestmark = [pytest.mark.slow_beyond(4), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def bent(x):
    return x * ops.sigmoid(1.5 * x)


def gated(x):
    return x * ops.softmax(x, axis=2)


class Wide(layers.Conv2D):
    """A convolution with fewer options, as users write them."""

    def __init__(self, filters, tag="wide", **options):
        options = {"kernel_size": 3, "padding": "same", "activation": "relu", **options}
        super().__init__(filters, **options)
        self.tag = tag

    def get_config(self):
        return {"filters": self.filters, "tag": self.tag, "name": self.name}

    def said(self):
        return self.tag


def cnn():
    return keras.Sequential(
        [layers.Conv1D(3, 2), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    )


FORMS = {
    "softmax": lambda: layers.Softmax(axis=1, name="own"),
    "negative_axis": lambda: layers.Softmax(axis=-2, name="own"),
    "function": lambda: layers.Activation(bent, name="own"),
    "function_of_a_layer": lambda: layers.Conv2D(3, 1, activation=bent, name="own"),
    "function_of_several_numbers": lambda: layers.Dense(3, activation=gated, name="own"),
    "separable": lambda: layers.SeparableConv2D(3, 2, activation=bent, name="own"),
    "swish_of_tensorflow": lambda: layers.Dense(3, activation=tf.nn.swish, name="own"),
    "softmax_of_tensorflow": lambda: layers.Dense(3, activation=tf.nn.softmax, name="own"),
    "leaky_relu_of_tensorflow": lambda: layers.Activation(tf.nn.leaky_relu, name="own"),
    "gelu_of_tensorflow": lambda: layers.Dense(3, activation=tf.nn.gelu, name="own"),
    "layer": lambda: layers.Activation(layers.Softmax(), name="own"),
    "layer_over_rows": lambda: layers.Dense(3, activation=layers.Softmax(axis=1), name="own"),
    "lambda_slice": lambda: layers.Lambda(lambda x: x[:, -1], name="own"),
    "lambda_function": lambda: layers.Lambda(lambda x: ops.minimum(bent(x), 1.0), name="own"),
    "lambda_options": lambda: layers.Lambda(
        lambda x, factor: factor * x, arguments={"factor": 0.5}, name="own"
    ),
    "dense_over_time": lambda: layers.TimeDistributed(
        layers.Dense(3, activation="relu"), name="own"
    ),
    "function_over_time": lambda: layers.TimeDistributed(
        layers.Dense(3, activation=bent), name="own"
    ),
    "convolution_over_time": lambda: layers.TimeDistributed(layers.Conv1D(3, 2), name="own"),
    "network_over_time": lambda: layers.TimeDistributed(cnn(), name="own"),
    "dense_network_over_time": lambda: layers.TimeDistributed(
        keras.Sequential([layers.Dense(5, activation="relu"), layers.Dense(2)]), name="own"
    ),
    "subclass": lambda: Wide(3, name="own"),
    "center_crop": lambda: layers.CenterCrop(3, 4, name="own"),
    "large_average": lambda: layers.AveragePooling2D(17, padding="same", name="own"),
    "average_in_place": lambda: layers.AveragePooling2D(6, 1, padding="same", name="own"),
    "columns": lambda: layers.Rescaling([1.0, 2.0, -0.5, 1.0], [0.0, 0.1, 0.2, 0.3], name="own"),
    "identity": lambda: layers.Identity(name="own"),
}
NOT_NAMED = ("network_over_time", "dense_network_over_time", "function_of_several_numbers")


@pytest.mark.parametrize("name", FORMS)
def test_it_computes_the_same_under_its_name_and_deploys(name, tmp_path):
    model = after_a_layer(FORMS[name]())
    expected = model.get_weights()
    plain = assert_equal_in_layers(model, tolerance=1e-5)
    if name not in NOT_NAMED and "lambda" not in name:
        assert "own" in {layer.name for layer in plain.layers}
    assert len(plain.trainable_weights) == len(model.trainable_weights)
    assert_deploys(model, tmp_path)
    assert all(map(np.array_equal, model.get_weights(), expected))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(4, activation=bent, name="own"),
        lambda: layers.TimeDistributed(layers.Dense(4, activation="relu"), name="own"),
        lambda: layers.Softmax(axis=1, name="own"),
        lambda: layers.Conv2D(4, 1, activation=layers.Softmax(axis=1), name="own"),
    ],
    ids=["function", "over time", "softmax", "layer"],
)
def test_a_layer_that_is_called_twice_has_one_set_of_weights(make, tmp_path):
    def twice(x):
        own = make()
        return own(own(x) + 1.0)

    model = after_a_layer(twice)
    plain = assert_equal_in_layers(model, tolerance=1e-6)
    assert plain.count_params() == model.count_params()
    assert_deploys(model, tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: layers.Dense(4, activation=bent, **options),
        lambda **options: layers.TimeDistributed(layers.Dense(4), **options),
        lambda **options: layers.TimeDistributed(layers.Conv1D(4, 2), **options),
        lambda **options: layers.Softmax(axis=1, **options),
        lambda **options: layers.Activation(bent, **options),
    ],
    ids=["dense", "over time", "step by step", "softmax", "activation"],
)
def test_a_regularizer_of_what_comes_out_stays(make):
    model = after_a_layer(lambda x: make(activity_regularizer="l2", name="own")(x))
    x = images(8, (6, 6, 4))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    found = []
    for each in (model, qmodel):
        each(x)
        found.append(float(sum(each.losses)))
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[0] > 0


@pytest.mark.parametrize("name", ["softmax", "dense_over_time", "subclass", "function"])
def test_an_override_finds_it_by_its_name(name):
    model = after_a_layer(FORMS[name]())
    overrides = {"own": keras_qat.LSQConfig(weight_bits=3, activation_bits=3)}
    plan = keras_qat.plan(model, overrides=overrides)
    (own,) = (layer for layer in plan.layers if layer.name == "own")
    assert own.config is overrides["own"]


def test_a_batch_normalization_over_time_trains_as_in_keras():
    """It sees one step after the other, and its averages move at each."""
    inputs = keras.Input((5, 6, 2), name="input")
    steps = layers.TimeDistributed(cnn(), name="own")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2)(steps)))
    x = images(16, (5, 6, 2))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    moved = []
    for each in (model, qmodel):
        each(x, training=True)
        moved.append(next(w for w in each.non_trainable_weights if "moving_mean" in w.path))
    np.testing.assert_allclose(moved[1], moved[0], rtol=0.05, atol=0.02)


def test_long_sequences_over_time_are_refused_and_short_pieces_are_not(tmp_path):
    def over_time(steps):
        inputs = keras.Input((steps, 5, 2), name="input")
        cut = ops.split(inputs, 2, axis=1) if steps == 40 else [inputs]
        own = layers.TimeDistributed(layers.Conv1D(2, 2), name="own")
        return keras.Model(inputs, [layers.Flatten()(own(each)) for each in cut])

    with pytest.raises(UnsupportedLayerError, match=r"'own' .*for 1 to 32 known steps.*33"):
        keras_qat.quantize(over_time(33), calibration_data=images(4, (33, 5, 2)))
    keras_qat.quantize(over_time(40), calibration_data=images(4, (40, 5, 2)))


REFUSED = {
    "an image that is too small": (layers.CenterCrop(9, 3, name="own"), "use ZeroPadding2D"),
    "a random crop": (layers.RandomCrop(3, 3, name="own"), "use CenterCrop in the model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_keras_computes_otherwise_is_refused(name):
    layer, message = REFUSED[name]
    model = after_a_layer(layer)
    with pytest.raises(UnsupportedLayerError, match=f"'own' .*{message}"):
        keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))


class Sorted(layers.Dense):
    """Changes what its base computes, by a method that `call` uses."""

    def call(self, inputs):
        return ops.sort(super().call(inputs))


class OtherWeights(layers.Dense):
    def add_weight(self, *args, **options):
        return super().add_weight(*args, **{**options, "trainable": False})


def test_a_subclass_that_changes_more_is_not_its_base():
    model = after_a_layer(Sorted(3, name="own"))
    with pytest.raises(UnsupportedLayerError, match=r"'own' \(Sorted\): no rule"):
        keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))


def test_a_subclass_with_frozen_weights_keeps_them_frozen():
    model = after_a_layer(OtherWeights(3, name="own"))
    qmodel = keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))
    trained = {variable.path for variable in qmodel.trainable_variables}
    assert "before/before/kernel" in trained
    assert not any("own/" in path for path in trained)
    assert qmodel.plan.layers[-1].weight_bits == 8


def test_a_lambda_is_no_part_of_what_is_saved(tmp_path):
    model = after_a_layer(layers.Lambda(lambda x: bent(x), name="own"))
    qmodel = keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))
    qmodel.save(tmp_path / "net.keras")
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    assert not any(isinstance(layer, layers.Lambda) for layer in loaded.layers)
