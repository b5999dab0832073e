"""WaveQ's sinusoidal regularizer: what it adds to the loss, and where it moves weights."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantizers import GDNSQWeightQuantizer
from keras_qat.training.losses import sinusoidal_regularization
from tests.golden_vectors import value_and_gradients
from tests.models import dense_network, points

X, Y = points(64)
BITS = {"weight_bits": 2, "activation_bits": 8, "first_and_last_bits": 2}
CONFIGS = {
    "ste": keras_qat.STEConfig,
    "lsq": keras_qat.LSQConfig,
    "dorefa": keras_qat.DoReFaConfig,
    "gdnsq": keras_qat.GDNSQConfig,
}


def test_its_value_and_gradient():
    position = np.random.default_rng(0).uniform(-3, 3, 40).astype(np.float32)
    value, (slope,) = value_and_gradients(
        lambda v: sinusoidal_regularization(v), [position], np.float32(1.0)
    )
    assert float(value) == pytest.approx(np.mean(np.sin(np.pi * position) ** 2), rel=1e-5)
    expected = np.pi * np.sin(2 * np.pi * position) / 40
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def new_model(config):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    for width in qmodel.learned_widths:
        width.narrow()
    qmodel.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    return qmodel


def squared_sines(qmodel):
    """Of the distance of every weight from its code."""
    found = []
    for layer in qmodel.layers:
        if isinstance(layer, QuantizeWrapper):
            quantizer, kernel = layer.weight_quantizer, layer.channels_last_kernel()
            codes, scale = np.asarray(quantizer.codes(kernel)), np.asarray(quantizer.scale)
            stride = 2 if isinstance(quantizer, GDNSQWeightQuantizer) else quantizer.grid.step
            noise = (codes - np.asarray(quantizer.prepare(kernel)) / scale) / stride
            found.append(np.mean(np.sin(np.pi * noise) ** 2))
    return found


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore:.*learns its bit widths")
def test_it_joins_the_training_loss_alone(kind):
    plain, pulled = (
        new_model(CONFIGS[kind](**BITS, code_regularization=strength)) for strength in (0.0, 3.0)
    )
    losses = [np.ravel(qmodel.train_on_batch(X, Y))[0] for qmodel in (plain, pulled)]
    added = 3.0 * sum(squared_sines(pulled))
    assert added > 0.1
    assert float(losses[1]) - float(losses[0]) == pytest.approx(added, rel=1e-3)
    evaluated = [qmodel.evaluate(X, Y, verbose=0) for qmodel in (plain, pulled)]
    assert evaluated[0] == evaluated[1]


def test_weights_move_to_their_codes():
    before = new_model(keras_qat.LSQConfig(**BITS, code_regularization=1.0))
    start = np.mean(squared_sines(before))
    before.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    before.fit(X, Y, epochs=60, verbose=0)
    assert np.mean(squared_sines(before)) < 0.5 * start


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_strength_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"number, 0 or more\. Received"):
        keras_qat.LSQConfig(code_regularization=wrong)


@pytest.mark.parametrize("option", ["code_regularization", "discretization_loss"])
def test_frozen_layers_do_not_count_as_no_regularizer_of_keras_counts_them(option):
    float_model = dense_network()
    frozen = float_model.get_layer("hidden")
    frozen.kernel_regularizer = keras.regularizers.L2(1.0)
    frozen.trainable = False
    assert float_model.losses == []

    def loss(**more):
        plain = {"weight_bits": 2, "activation_bits": None}
        overrides = {"hidden": keras_qat.STEConfig(**plain, **more)}
        qmodel = keras_qat.quantize(
            float_model, keras_qat.STEConfig(**plain), calibration_data=X, overrides=overrides
        )
        qmodel.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        before = float(qmodel.evaluate(X, Y, verbose=0))
        return before, qmodel.fit(X, Y, batch_size=64, verbose=0).history["loss"][0]

    evaluated, trained = loss(**{option: 1.0})
    assert trained == pytest.approx(evaluated, rel=1e-4)
    assert loss()[1] == trained
