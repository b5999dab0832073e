"""DSQ with a learned sharpness: the forward pass stays, and each quantizer trains its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from keras_qat.quantizers import (
    DoReFaQuantizer,
    Grid,
    LSQActivationQuantizer,
    LSQWeightQuantizer,
    PACTQuantizer,
    STEWeightQuantizer,
)
from tests.models import dense_network, points

pytestmark = pytest.mark.slow_beyond(1)

LEARNED = keras_qat.Estimator("dsq", {"learned": True})
CONSTANT = keras_qat.Estimator("dsq")
X = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
QUANTIZERS = {
    "lsq_weights": lambda **o: LSQWeightQuantizer(Grid.for_weights(2), per_channel=True, **o),
    "lsq_one_bit": lambda **o: LSQWeightQuantizer(Grid.for_weights(1), **o),
    "ste_weights": lambda **o: STEWeightQuantizer(Grid.for_weights(3), **o),
    "lsq_activations": lambda **o: LSQActivationQuantizer(Grid.for_activations(2, True), **o),
    "pact": lambda **o: PACTQuantizer(Grid.for_activations(2, False), **o),
    "dorefa": lambda **o: DoReFaQuantizer(2, **o),
}


def built(name, estimator):
    quantizer = QUANTIZERS[name](estimator=estimator)
    quantizer.build(X.shape)
    quantizer.set_scale(np.full(quantizer.scale.shape, 0.4, np.float32))
    return quantizer


def slope(quantizer, upstream):
    """Of `sum(quantizer(x) * upstream)` for the logarithm of the sharpness."""
    (variable,) = [v for v in quantizer.trainable_variables if v.name == "log_sharpness"]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(tf.constant(X), training=True) * upstream)
    return variable, float(tape.gradient(loss, variable.value))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_forward_pass_and_the_gradient_of_x_are_those_of_a_constant(name):
    outputs, gradients = [], []
    for estimator in (CONSTANT, LEARNED):
        quantizer, x = built(name, estimator), tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = quantizer(x, training=True)
        outputs.append(np.asarray(output))
        gradients.append(np.asarray(tape.gradient(output, x)))
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-7)  # tanh of a tensor, or of math


@pytest.mark.parametrize("name", ["lsq_weights", "lsq_one_bit", "ste_weights", "lsq_activations"])
def test_the_sharpness_trains_by_the_derivative_of_the_staircase(name):
    """`ln k` has the slope `k * s * sum g * dphi/dk`, here by differences of phi."""
    quantizer = built(name, LEARNED)
    upstream = np.random.default_rng(1).normal(size=X.shape)
    variable, found = slope(quantizer, upstream.astype(np.float32))
    grid, step = quantizer.grid, np.float64(quantizer.step)
    position = np.asarray(quantizer.position(X), np.float64)
    inside = (position >= 0.0) & (position <= (grid.qmax - grid.qmin) / grid.step)

    def staircase(sharpness):
        low = np.floor(position)
        return low + 0.5 + np.tanh(sharpness * (position - low - 0.5)) / np.tanh(sharpness / 2) / 2

    k = np.exp(float(variable))
    assert k == pytest.approx(2.2)
    derivative = (staircase(k + 1e-4) - staircase(k - 1e-4)) / 2e-4
    expected = k * np.sum(step * upstream * inside * derivative)
    assert found == pytest.approx(expected, rel=1e-3)  # float32 against differences in float64


def test_every_quantizer_trains_its_own_and_keeps_it(tmp_path):
    x, y = points()
    keras.utils.set_random_seed(0)
    config = keras_qat.LSQConfig(weight_bits=2, activation_bits=2, estimator=LEARNED)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=x)
    qmodel.compile(keras.optimizers.Adam(1e-2, weight_decay=0.5), "sparse_categorical_crossentropy")
    qmodel.fit(x, y, epochs=4, verbose=0)
    found = {v.path: float(v) for v in qmodel.trainable_variables if v.name == "log_sharpness"}
    start = float(np.log(np.float32(2.2)))
    assert len(found) == len(qmodel.quantizers) - 1  # the input has a fixed grid
    moved = [value for value in found.values() if value != pytest.approx(start)]
    assert len(set(moved)) > 2
    assert all(abs(value - start) < 0.5 for value in found.values())  # no weight decay
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras", compile=False)
    again = [float(v) for v in loaded.trainable_variables if v.name == "log_sharpness"]
    assert again == list(found.values())
    codes, loaded_codes = qmodel.layer_codes(x), loaded.layer_codes(x)
    for name, expected in codes.items():
        np.testing.assert_array_equal(loaded_codes[name], expected)


def test_gdnsq_refuses_it_and_its_way_out_works():
    with pytest.raises(ValueError, match=r"no option of the estimator.*keras_qat.LSQConfig"):
        keras_qat.GDNSQConfig(estimator=LEARNED)
    keras_qat.GDNSQConfig(estimator=CONSTANT)
    keras_qat.LSQConfig(estimator=LEARNED)
