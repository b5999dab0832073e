"""Training steps whose forward pass yields what a target computes."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.target_values import as_told, telling
from tests.models import images, randomize

layers = keras.layers
pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

X = images(32, (8, 8, 3))
TWO_BITS = keras_qat.LSQConfig(weight_bits=2, activation_bits=2)


def network(*extra):
    x = inputs = keras.Input((8, 8, 3))
    for layer in extra:
        x = layer(x)
    x = stem = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3)(x)))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, stem]))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, layers.Dense(5, name="last")(x)))


def quantized(*extra):
    return keras_qat.quantize(network(*extra), TWO_BITS, calibration_data=X)


def steps_of(qmodel, training):
    """The model's outputs in steps of their grid."""
    scale = qmodel.get_layer("last_quantizer").scale
    return ops.convert_to_numpy(qmodel(X, training=training) / scale)


@pytest.mark.parametrize("target", ["tflm", "litert", "xnnpack-arm64"])
def test_the_forward_pass_is_that_of_the_target(target):
    qmodel = quantized()
    qmodel.compute_as(target)
    assert np.abs(steps_of(qmodel, True) - steps_of(qmodel, False)).max() > 0.5
    qmodel.compute_as(target, in_training=True)
    np.testing.assert_allclose(steps_of(qmodel, True), steps_of(qmodel, False), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not support masking")  # Keras says so of all models
def test_a_mask_reaches_the_values_of_the_target():
    inputs = keras.Input((6, 3))
    x = layers.GlobalAveragePooling1D()(layers.ReLU()(layers.Dense(4)(inputs)))
    model = randomize(keras.Model(inputs, layers.Dense(5)(x)))
    steps = images(8, (6, 3))
    qmodel = keras_qat.quantize(model, TWO_BITS, calibration_data=steps)
    qmodel.compute_as("litert", in_training=True)
    mask = np.tile(np.arange(6) < 2, (8, 1))
    found, expected = (qmodel(steps, training=each, mask=mask) for each in (True, False))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # y + (target - y) rounds in float32
    assert not np.allclose(expected, qmodel(steps, training=False))


def test_the_gradient_is_that_of_the_quantizer():
    tf = pytest.importorskip("tensorflow")
    quantizer = keras_qat.LSQConfig(activation_bits=2).activation_quantizer(2, False, "q")
    x = tf.constant([[0.2, 0.9, 1.4, 7.0]])
    quantizer(x)

    def gradients(values):
        with tf.GradientTape() as tape:
            tape.watch(x)
            with telling({quantizer: [values]}):
                outputs = quantizer(x, training=True)
        found = tape.gradient(outputs, [x, *quantizer.trainable_variables])
        return outputs, [np.asarray(each) for each in found]

    own, expected = gradients(quantizer(x, training=True))
    told, found = gradients(own + 1.0)
    np.testing.assert_array_equal(told, own + 1.0)
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(each, other)


def test_without_a_target_the_output_stays():
    x = ops.ones(3)
    assert as_told(object(), x) is x


def test_training_leaves_running_statistics_and_trains_the_rest():
    qmodel = quantized()
    qmodel.compute_as("tflm", in_training=True)
    norm = qmodel.get_layer("norm")
    before = [ops.convert_to_numpy(each).copy() for each in norm.weights]
    qmodel.compile(keras.optimizers.Adam(1e-2), "mse")
    qmodel.train_on_batch(X, np.ones((32, 5), np.float32))
    gamma, beta, mean, variance = map(ops.convert_to_numpy, norm.weights)
    np.testing.assert_array_equal(mean, before[2])
    np.testing.assert_array_equal(variance, before[3])
    assert np.any(gamma != before[0])
    assert np.any(beta != before[1])


def test_an_export_keeps_it_and_another_choice_ends_it():
    qmodel = quantized()
    qmodel.compute_as("tflm", in_training=True)
    with qmodel.computing_as("litert"):
        pass
    np.testing.assert_allclose(steps_of(qmodel, True), steps_of(qmodel, False), atol=1e-4)
    qmodel.compute_as("tflm")
    assert np.abs(steps_of(qmodel, True) - steps_of(qmodel, False)).max() > 0.5


def test_a_fit_that_was_traced_before_follows():
    qmodel = quantized()
    qmodel.compile("sgd", "mse")
    norm = qmodel.get_layer("norm")
    target = np.ones((32, 5), np.float32)
    qmodel.train_on_batch(X, target)
    before = ops.convert_to_numpy(norm.moving_mean).copy()
    qmodel.compute_as("tflm", in_training=True)
    qmodel.train_on_batch(X, target)
    np.testing.assert_array_equal(norm.moving_mean, before)
    qmodel.compute_as("tflm")
    qmodel.train_on_batch(X, target)
    assert np.any(ops.convert_to_numpy(norm.moving_mean) != before)


def test_layers_that_draw_are_refused_by_name():
    qmodel = quantized(layers.RandomFlip(name="flip"))
    with pytest.raises(ValueError, match=r"'flip' \(RandomFlip\) changes its input at random"):
        qmodel.compute_as("tflm", in_training=True)
    assert qmodel.computes_as == "litert"
    qmodel.compute_as("tflm")


def test_losses_of_layers_count_once():
    dense = layers.Dense(8, activity_regularizer=keras.regularizers.L2(0.1))
    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.ReLU()(dense(inputs)))))
    x, y = np.ones((16, 6), np.float32), np.zeros((16, 3), np.float32)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    qmodel.compile(keras.optimizers.SGD(0.0), "mse")
    before = qmodel.train_on_batch(x, y)
    qmodel.compute_as("litert", in_training=True)
    assert before == pytest.approx(qmodel.train_on_batch(x, y), rel=1e-3)
    qmodel(x, training=True)
    assert len(qmodel.losses) == 1


def test_fit_does_not_set_statistics_anew():
    qmodel = quantized()
    qmodel.compute_as("tflm", in_training=True)
    norm = qmodel.get_layer("norm")
    before = ops.convert_to_numpy(norm.moving_mean).copy()
    qmodel.compile("sgd", "mse")
    qmodel.fit(X, np.ones((32, 5), np.float32), verbose=0)
    np.testing.assert_array_equal(norm.moving_mean, before)
    qmodel.fit(X, np.ones((32, 5), np.float32), verbose=0, reestimate=True)
    assert np.any(ops.convert_to_numpy(norm.moving_mean) != before)


def test_a_model_without_rounded_activations_is_refused():
    weights_alone = keras_qat.LSQConfig(activation_bits=None)
    qmodel = keras_qat.quantize(network(), weights_alone, calibration_data=X)
    with pytest.raises(ValueError, match=r"has no activation on a grid .*Leave in_training out"):
        qmodel.compute_as("litert", in_training=True)


@keras.saving.register_keras_serializable(package="tests")
class Noisy(layers.Layer):
    """Holds a layer that draws."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noise = layers.GaussianNoise(1.0)

    def call(self, x, training=None):
        return self.noise(x, training=training)


@keras.saving.register_keras_serializable(package="tests")
class InTraining(layers.Layer):
    """The identity in inference."""

    def call(self, x, training=None):
        return x + keras.random.normal(ops.shape(x)) if training else x


DRAWING = [(Noisy, False), (Noisy, True), (InTraining, False)]
"""With whether it stays in float. There, nobody can tell what `InTraining` does."""


@pytest.mark.parametrize(("kind", "in_float"), [*DRAWING, (layers.GaussianDropout, True)])
def test_layers_inside_that_draw_are_refused_too(kind, in_float):
    own = {"rate": 0.5} if kind is layers.GaussianDropout else {}
    overrides = {"drawn": None} if in_float else None
    model = network(kind(name="drawn", **own))
    qmodel = keras_qat.quantize(model, TWO_BITS, calibration_data=X, overrides=overrides)
    with pytest.raises(ValueError, match="changes its input at random"):
        qmodel.compute_as("tflm", in_training=True)


def test_training_follows_another_model_of_the_same_layers():
    qmodel = quantized()
    qmodel.compile("sgd", "mse")
    qmodel.compute_as("tflm", in_training=True)
    qmodel.train_on_batch(X, np.ones((32, 5), np.float32))
    traced = qmodel.train_function
    with qmodel.computing_as("litert"):
        pass
    assert qmodel.train_function is traced
    keras_qat.QuantizedModel(qmodel.inputs, qmodel.outputs).compute_as("litert")
    assert qmodel.computes_as == "litert"
    assert qmodel.train_function is not traced


def test_a_callback_may_begin_it():
    class Begin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.compute_as("tflm", in_training=True)

    qmodel = quantized()
    target = np.ones((32, 5), np.float32)
    qmodel.compile(keras.optimizers.SGD(0.0), "mse")
    history = qmodel.fit(X, target, epochs=2, verbose=0, callbacks=[Begin()], reestimate=False)
    found = qmodel.evaluate(X, target, verbose=0)
    assert history.history["loss"][1] == pytest.approx(found, rel=1e-4)
    assert history.history["loss"][0] != pytest.approx(found, rel=1e-4)
