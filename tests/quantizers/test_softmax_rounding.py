"""The runtimes' fixed output grid of SOFTMAX."""

import keras
import numpy as np
import pytest

from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT
from keras_qat.quantizers import SoftmaxRounding


def probabilities():
    return np.linspace(0.0, 1.0, 5000, dtype=np.float32)


def test_training_passes_probabilities_through():
    np.testing.assert_array_equal(
        SoftmaxRounding()(probabilities(), training=True), probabilities()
    )


@pytest.mark.parametrize("arguments", [{}, {"training": False}])
def test_inference_is_the_grid_of_the_integer_op(arguments):
    rounded = np.asarray(SoftmaxRounding()(probabilities(), **arguments))
    codes = SOFTMAX_OUTPUT.quantize(probabilities())
    np.testing.assert_array_equal(rounded, SOFTMAX_OUTPUT.dequantize(codes))
    assert len(np.unique(rounded)) == 256
    assert rounded.max() == np.float32(255 / 256)


def test_codes_are_those_of_the_output():
    layer = SoftmaxRounding()
    codes = layer.qparams().quantize(probabilities())
    np.testing.assert_array_equal(
        layer.qparams().dequantize(codes), layer(probabilities(), training=False)
    )
    placed, runtimes = layer.qparams().placed_in_int8(), SOFTMAX_OUTPUT
    assert placed == runtimes


def test_it_holds_no_variables_and_reloads_from_its_config():
    layer = SoftmaxRounding(name="probabilities")
    layer(probabilities())
    assert layer.variables == []
    config = keras.saving.serialize_keras_object(layer)
    clone = keras.saving.deserialize_keras_object(config)
    assert clone.get_config() == layer.get_config()


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "mse"])
def test_a_loss_trains_through_it(loss):
    """A probability that is rounded to 0 has no logarithm: training must not see the rounding."""
    inputs = keras.Input((4,))
    outputs = SoftmaxRounding()(keras.layers.Dense(3, activation="softmax", name="dense")(inputs))
    model = keras.Model(inputs, outputs)
    kernel = 20.0 * np.eye(4, 3, dtype=np.float32)
    model.get_layer("dense").set_weights([kernel, np.zeros(3, np.float32)])
    x = np.eye(4, dtype=np.float32)[:3]
    assert set(np.unique(model(x))) == {0.0, np.float32(255 / 256)}
    targets = np.roll(np.arange(3), 1) if loss.startswith("sparse") else np.roll(np.eye(3), 1, 0)
    model.compile("sgd", loss)
    (value,) = model.fit(x, targets, verbose=0).history["loss"]
    assert np.isfinite(value)
    assert np.all(np.isfinite(model.get_weights()[0]))
    assert np.any(model.get_weights()[0] != kernel)
