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

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

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


def answers(model, x):
    return np.asarray(model.predict(x, verbose=0))


def is_near(qmodel, model, x):
    expected = answers(model, x)
    return np.abs(answers(qmodel, x) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("function", [relu, bent], ids=lambda function: function.__name__)
def test_a_function_that_keras_does_not_find_again_is_kept_in_float(function, tmp_path):
    x = images(64, (6, 6, 3))
    model = network(PLACES["Dense"](function))
    qmodel = keras_qat.quantize(model, overrides={"own": None}, calibration_data=x)
    assert is_near(qmodel, model, x)
    if function is bent:
        with pytest.warns(UserWarning, match=r"custom_objects=\{'bent': bent\}"):
            qmodel.save(tmp_path / "model.keras")
        loaded = keras_qat.load_model(tmp_path / "model.keras", custom_objects={"bent": bent})
        np.testing.assert_array_equal(answers(loaded, x), answers(qmodel, x))
        return
    with pytest.raises(ValueError, match=r"'own' \(Dense\) cannot be saved.*save_weights"):
        qmodel.save(tmp_path / "model.keras")  # the name is one that Keras has
    assert not any(tmp_path.iterdir())
    qmodel.save_weights(tmp_path / "model.weights.h5")


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


def test_a_regularizer_of_the_users_own_is_never_taken_for_that_of_keras(tmp_path):
    dense = layers.Dense(4, kernel_regularizer=l2, name="own")
    assert copy_of(dense).kernel_regularizer is l2
    qmodel = keras_qat.quantize(network(dense), calibration_data=images(4, (6, 6, 3)))
    (loss,) = qmodel.losses
    np.testing.assert_allclose(loss, np.abs(dense.kernel).sum(), rtol=1e-6)
    with pytest.warns(UserWarning, match=r"does not hold code of your own.*'l2': l2"):
        qmodel.save(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"l2": l2}):
        loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.losses, qmodel.losses)


class Mask(keras.constraints.Constraint):
    """Keeps the zeros of a pruned kernel. Keras knows nothing of it."""

    def __init__(self, mask):
        self.mask = np.asarray(mask, "float32")

    def __call__(self, weights):
        return weights * self.mask

    def get_config(self):
        return {"mask": self.mask.tolist()}


def test_a_constraint_that_is_not_registered_holds_in_training_and_in_the_file(tmp_path):
    x = images(64, (6, 6, 3))
    mask = (np.arange(16).reshape(4, 4) % 3 == 0).astype("float32")
    model = network(layers.Dense(4, kernel_constraint=Mask(mask), name="own"))
    start = mask * np.linspace(-1.0, 1.0, 16).reshape(4, 4)
    model.get_layer("own").kernel.assign(start)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    qmodel.compile("adam", "mse")
    qmodel.fit(x, np.ones((64, 4, 4, 2)), epochs=2, verbose=0)
    kernel = np.asarray(qmodel.get_layer("own").layer.kernel)
    assert not kernel[mask == 0].any()
    assert np.abs(kernel - start).max() > 1e-4
    with pytest.warns(
        UserWarning, match=r"custom_objects=\{'Mask': Mask\} to keras_qat.load_model"
    ):
        qmodel.save(tmp_path / "model.keras")
    qmodel.save(tmp_path / "again.keras")  # said once
    loaded = keras_qat.load_model(tmp_path / "model.keras", custom_objects={"Mask": Mask})
    np.testing.assert_array_equal(answers(loaded, x), answers(qmodel, x))


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
    x = images(32, (5, 3))
    inputs = keras.Input((5, 3))
    own = INSIDE[kind]()
    model = keras.Model(inputs, layers.Dense(2)(own(inputs)))
    qmodel = keras_qat.quantize(model, overrides={own.name: None}, calibration_data=x)
    assert is_near(qmodel, model, x)


def test_a_layer_without_a_configuration_stays_in_float():
    x = images(64, (6, 6, 3))
    leaky = functools.partial(keras.activations.leaky_relu, negative_slope=0.5)
    model = network(layers.Dense(4, activation=leaky, name="own"))
    qmodel = keras_qat.quantize(model, overrides={"own": None}, calibration_data=x)
    assert is_near(qmodel, model, x)


def test_a_layer_that_cannot_be_copied_is_named_without_its_arrays():
    class Odd(layers.Dense):
        def get_config(self):
            raise TypeError(str(np.zeros(10_000).tolist()))

    with pytest.raises(ValueError, match=r"'own' \(Odd\) cannot be copied") as error:
        copy_of(Odd(4, name="own"))
    assert len(str(error.value)) < 1000
