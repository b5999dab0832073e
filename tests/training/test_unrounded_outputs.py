"""A loss with a logarithm reads outputs unrounded in training, as in float; evaluation rounds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat

layers = keras.layers
X = np.random.default_rng(0).normal(0, 1, (256, 4)).astype(np.float32)
METHODS = ["lsq", "ste", "dorefa", "gdnsq", "pege"]


def network(activation, gain):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="features")
    head = layers.Dense(1, activation=activation, name="head")
    model = keras.Model(inputs, head(inputs))
    head.kernel.assign(gain * head.kernel)
    head.bias.assign([0.1])
    return model


def slopes(model, y, loss):
    """The gradient of each example's loss with respect to the logarithm's argument."""
    with tf.GradientTape() as tape:
        y_pred = model(X, training=True)
        value = tf.reduce_sum(keras.losses.get(loss)(y, y_pred))
    (kernel,) = (each for each in model.trainable_variables if each.path.endswith("kernel"))
    return np.asarray(y_pred), np.linalg.norm(tape.gradient(value, kernel))


def is_on_grid(values, quantizer):
    steps = np.asarray(values, np.float64) / float(quantizer.scale)
    return np.abs(steps - np.rint(steps)).max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("activation", "loss", "gain"),
    [("sigmoid", "binary_crossentropy", 8.0), ("softplus", "poisson", 1.0)],
)
def test_training_reads_outputs_unrounded(method, activation, loss, gain):
    model = network(activation, gain)
    kernel, bias = model.layers[1].get_weights()
    y = np.asarray(X @ kernel + bias < 0.0, np.float32)  # the wrong answer for every example
    qmodel = keras_qat.quantize(model, method, calibration_data=X)
    quantizer = qmodel.quantizers[-1]
    trained, slope = slopes(qmodel, y, loss)
    assert not is_on_grid(trained, quantizer)
    assert is_on_grid(qmodel(X), quantizer)
    assert slope > 0.5 * slopes(model, y, loss)[1]


def test_every_wrong_example_has_a_gradient():
    """Rounded to 0 or 1, the wrong and sure answers would have none."""
    model = network("sigmoid", 4.0)
    qmodel = keras_qat.quantize(model, "ste", calibration_data=X)
    rounded = np.asarray(qmodel(X))
    sure = np.minimum(rounded, 1.0 - rounded)[:, 0] < 1e-6
    assert np.sum(sure) > 5
    inputs = tf.constant(X[sure])
    y = 1.0 - np.round(rounded[sure])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(keras.losses.binary_crossentropy(y, qmodel(inputs, training=True)))
    found = np.abs(np.asarray(tape.gradient(loss, inputs))).sum(axis=1)
    assert np.all(found > 0.0)


def test_a_sigmoid_reaches_one_whatever_the_data_reached():
    model = network("sigmoid", 0.1)
    for method in METHODS:
        qmodel = keras_qat.quantize(model, method, calibration_data=X)
        quantizer = qmodel.quantizers[-1]
        top = float(quantizer.scale) * quantizer.grid.qmax
        assert 0.99 < top <= 1.0 + 1e-6


def test_a_sigmoid_that_a_layer_reads_too_is_rounded():
    inputs = keras.Input((4,))
    gate = layers.Dense(4, activation="sigmoid", name="gate")(inputs)
    model = keras.Model(inputs, [gate, layers.Dense(1, name="head")(gate)])
    qmodel = keras_qat.quantize(model, "ste", calibration_data=X)
    trained, _ = qmodel(X, training=True)
    gates = qmodel.named_quantizers["gate_sigmoid/activations"]
    assert is_on_grid(trained, gates)


def test_a_file_of_the_model_trains_alike(tmp_path):
    qmodel = keras_qat.quantize(network("sigmoid", 8.0), "lsq", calibration_data=X)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    for training in (True, False):
        np.testing.assert_array_equal(loaded(X, training=training), qmodel(X, training=training))


@pytest.mark.parametrize("method", METHODS)
def test_no_variable_trains_without_a_gradient(method):
    """Keras warns of variables without one, and warnings are errors here."""
    qmodel = keras_qat.quantize(network("sigmoid", 1.0), method, calibration_data=X)
    qmodel.compile("sgd", "binary_crossentropy")
    y = np.asarray(X[:, :1] > 0.0, np.float32)
    callbacks = {
        "gdnsq": [keras_qat.callbacks.GDNSQSchedule(verbose=0)],
        "pege": [keras_qat.callbacks.PEGESchedule()],
    }
    qmodel.fit(X, y, epochs=4, batch_size=2, verbose=0, callbacks=callbacks.get(method))
    quantizer = qmodel.quantizers[-1]
    assert float(quantizer.scale) * quantizer.grid.qmax > 0.99
