"""Functions of the user's own: the function decides, and not its name."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat.copying import copy_of
from tests.models import images

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers


def relu(x):
    return keras.ops.relu(x) - 0.5


def relu6(x):
    return keras.ops.relu6(x) - 0.5


def linear(x):
    return 2 * x


def softmax(x):
    return keras.ops.softmax(x) / 2


def tanh(x):
    return keras.ops.tanh(x) / 2


def bent(x):
    return keras.ops.relu(x) - 0.25 * x


def l2(weights):
    return keras.ops.sum(keras.ops.abs(weights))


@keras.saving.register_keras_serializable(package="mine", name="relu")
def registered_relu(x):
    return keras.ops.relu(x) - 0.5


class Twice:
    def __call__(self, x):
        return 2 * x


OWN = [relu, relu6, linear, softmax, tanh, bent, registered_relu]
OWN += [type(name, (Twice,), {})() for name in ("tanh", "relu")]  # named by their class


def network(layer):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(layer(x)))


PLACES = {
    "Activation": lambda function: layers.Activation(function, name="own"),
    "Conv2D": lambda function: layers.Conv2D(4, 1, activation=function, name="own"),
    "Dense": lambda function: layers.Dense(4, activation=function, name="own"),
    "SeparableConv2D": lambda function: layers.SeparableConv2D(
        4, 1, activation=function, name="own"
    ),
}


@pytest.mark.parametrize("function", OWN, ids=lambda each: getattr(each, "__name__", "object"))
@pytest.mark.parametrize("place", PLACES)
def test_a_function_of_the_users_own_is_never_taken_for_that_of_keras(place, function):
    model = network(PLACES[place](function))
    x = images(64, (6, 6, 3))
    expected = model.predict(x, verbose=0)
    error = np.abs(keras_qat.quantize(model, calibration_data=x).predict(x, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("function", [relu, bent], ids=lambda function: function.__name__)
def test_a_function_that_keras_does_not_find_again_is_refused_in_float_as_well(function):
    model = network(PLACES["Dense"](function))
    with pytest.raises(ValueError, match=r"'own' \(Dense\): its activation .*register_keras"):
        keras_qat.quantize(model, overrides={"own": None}, calibration_data=images(4, (6, 6, 3)))


def test_a_registered_function_is_kept_in_float_and_in_the_file(tmp_path):
    x = images(64, (6, 6, 3))
    model = network(PLACES["Dense"](registered_relu))
    qmodel = keras_qat.quantize(model, overrides={"own": None}, calibration_data=x)
    qmodel.save(tmp_path / "model.keras")
    expected = model.predict(x, verbose=0)
    for each in (qmodel, keras_qat.load_model(tmp_path / "model.keras")):
        error = np.abs(each.predict(x, verbose=0) - expected)
        assert error.max() < 0.05 * np.abs(expected).max()
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


@pytest.mark.parametrize("name", ["relu", "relu6", "sigmoid", "tanh"])
@pytest.mark.parametrize("module", [keras.activations, keras.ops, tf.nn], ids=["a", "ops", "tf"])
def test_other_homes_of_a_keras_function_are_known(module, name):
    x = images(64, (6, 6, 3))
    model = network(PLACES["Dense"](getattr(module, name)))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    expected = model.predict(x, verbose=0)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()


def test_a_regularizer_of_the_users_own_is_never_taken_for_that_of_keras():
    dense = layers.Dense(4, kernel_regularizer=l2, name="own")
    with pytest.raises(ValueError, match=r"'own' .*kernel_regularizer is a function of your own"):
        copy_of(dense)
    with pytest.raises(ValueError, match="kernel_regularizer is a function of your own"):
        keras_qat.quantize(network(dense), calibration_data=images(4, (6, 6, 3)))


@pytest.mark.parametrize(
    "kind", [layers.Dropout(0.5), layers.Softmax(), layers.Softmax(axis=1), layers.LeakyReLU(0.3)]
)
@pytest.mark.parametrize("place", ["Activation", "Dense"])
def test_a_layer_as_activation_is_what_it_is(place, kind):
    x = images(64, (6, 6, 3))
    model = network(PLACES[place](kind))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    expected = model.predict(x, verbose=0)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    random = isinstance(kind, layers.Dropout)
    outputs = [np.asarray(qmodel(x, training=True)) for _ in range(2)]
    assert random != np.array_equal(*outputs)


@pytest.mark.parametrize("place", ["Activation", "Dense"])
def test_a_layer_with_weights_as_activation_of_a_model_that_never_ran_is_refused(place):
    """Only a call of the model makes these weights, and it is not changed."""
    x = images(64, (6, 6, 3))
    activation = layers.PReLU(alpha_initializer=keras.initializers.Constant(0.3))
    model = network(PLACES[place](activation))
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'own' .*'PReLU'; put that layer"):
        keras_qat.quantize(model, calibration_data=x)
    assert not activation.built
    as_layer = keras.Sequential([layers.Dense(4), activation])
    keras_qat.quantize(network(as_layer), calibration_data=x)  # the way out


@pytest.mark.parametrize("place", ["Activation", "Dense"])
def test_a_layer_with_weights_as_activation_keeps_them(place):
    x = images(64, (6, 6, 3))
    alpha = keras.initializers.RandomUniform(0.0, 1.0, seed=1)
    model = network(PLACES[place](layers.PReLU(alpha_initializer=alpha)))
    expected = model.predict(x, verbose=0)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert len(qmodel.trainable_weights) > len(model.trainable_weights)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()


INSIDE = {
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(4, activation=relu)),
    "SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(4, activation=relu)),
    "RNN": lambda: layers.RNN(layers.SimpleRNNCell(4, activation=tanh), unroll=True),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_function_inside_a_layer_that_stays_in_float_is_never_taken_for_that_of_keras(kind):
    inputs = keras.Input((5, 3))
    own = INSIDE[kind]()
    model = keras.Model(inputs, layers.Dense(2)(own(inputs)))
    with pytest.raises(ValueError, match="its activation is a function of your own"):
        keras_qat.quantize(model, overrides={own.name: None}, calibration_data=images(4, (5, 3)))


def test_a_layer_without_a_configuration_is_named():
    leaky = functools.partial(keras.activations.leaky_relu, negative_slope=0.5)
    model = network(layers.Dense(4, activation=leaky, name="own"))
    with pytest.raises(ValueError, match=r"'own' \(Dense\) cannot be copied.*functools.partial"):
        keras_qat.quantize(model, overrides={"own": None}, calibration_data=images(4, (6, 6, 3)))
