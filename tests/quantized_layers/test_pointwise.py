"""Functions of one number: what the table states is what the model computes, wherever it runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from keras_qat.integer import QuantParams
from keras_qat.quantized_layers import (
    QuantizeActivation,
    QuantizeELU,
    QuantizeLeakyReLU,
    QuantizeReLU,
    QuantizeSharedPReLU,
    approximate_gelu,
)
from tests.models import images

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers

LAYERS = {
    "activation": lambda: QuantizeActivation(activation="silu"),
    "approximate_gelu": lambda: QuantizeActivation(activation=approximate_gelu),
    "elu": lambda: QuantizeELU(alpha=0.5),
    "leaky_relu": lambda: QuantizeLeakyReLU(negative_slope=0.1),
    "prelu": lambda: QuantizeSharedPReLU(shared_axes=[1, 2, 3], alpha_initializer="ones"),
    "relu": lambda: QuantizeReLU(max_value=4.0, negative_slope=0.1, threshold=0.5),
}
EVERY_CODE = np.arange(-128, 128)


@pytest.mark.parametrize("name", LAYERS)
def test_inference_is_the_rounded_float64_function(name):
    layer, x = LAYERS[name](), images(4, (5, 5, 2))
    kind = next(base for base in type(layer).__mro__ if base.__module__.startswith("keras.src"))
    plain = kind.from_config(layer.get_config())
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(layer(x), plain(x), **close)
    np.testing.assert_array_equal(layer(x, training=True), plain(x))
    assert layer(x).dtype == "float32"


@pytest.mark.parametrize("function", ["hard_sigmoid", "exponential", "sigmoid", "silu", "mish"])
def test_compilers_agree_on_every_entry(function):
    """Scales like these put many values half way between two codes; float32 falls apart there."""
    layer = QuantizeActivation(activation=function)
    compiled = tf.function(lambda x: layer(x), jit_compile=True)
    for exponent in range(2, 8):
        x = np.float32(EVERY_CODE * 2.0**-exponent)
        moved = np.concatenate([x[:3], x])  # at another place in a vector register
        values = np.asarray(layer.call(keras.ops.convert_to_tensor(x)))
        np.testing.assert_array_equal(values, compiled(moved)[3:])
        grid = QuantParams(np.float32(2.0 ** (-exponent - 1)))
        assert np.ptp(grid.quantize(values)) > 0


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_saved(name, tmp_path):
    inputs = keras.Input((5, 5, 2))
    model, x = keras.Model(inputs, LAYERS[name]()(inputs)), images(4, (5, 5, 2))
    model.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[1]) is type(model.layers[1])
    np.testing.assert_array_equal(loaded(x), model(x))


def test_the_policy_does_not_round_what_lies_between_two_grids():
    layer = layers.LeakyReLU(dtype="mixed_float16")
    copy = QuantizeLeakyReLU.from_config(layer.get_config())
    assert copy.dtype_policy.name == "float32"
