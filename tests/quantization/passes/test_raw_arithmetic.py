"""Reductions, constants and functions of one number, given as raw operations."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.errors import UnsupportedLayerError
from keras_qat.layer_rules.equal_operations import WRITE_INSTEAD
from keras_qat.quantized_layers import QuantizeFunction
from tests.models import images
from tests.quantization.passes.rewritten import (
    after_a_layer,
    assert_deploys,
    assert_equal_in_layers,
)
from tests.seams import assert_no_flip_and_no_mismatch

pytestmark = [pytest.mark.slow_beyond(4), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
RNG = np.random.default_rng(3)
OF_EACH = RNG.normal(size=(6, 6, 4)).astype(np.float32)
OF_PLACES = RNG.normal(size=(6, 6, 1)).astype(np.float32)
OF_ROWS = RNG.normal(size=(6, 1, 1)).astype(np.float32)

ARITHMETIC = {
    "sum": lambda x: ops.sum(x, axis=(1, 2)),
    "sum_of_channels": lambda x: ops.sum(x, axis=-1),
    "sum_kept": lambda x: ops.sum(x, axis=2, keepdims=True),
    "mean_of_channels": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "mean_of_all_but_examples": lambda x: ops.mean(x, axis=(1, 2, 3)),
    "max_of_channels": lambda x: ops.max(x, axis=-1),
    "max_of_rows": lambda x: ops.max(x, axis=1, keepdims=True),
    "average_pool": lambda x: ops.average_pool(x, 2),
    "average_pool_in_steps": lambda x: ops.average_pool(x, (3, 2), strides=1, padding="same"),
    "max_pool": lambda x: ops.max_pool(x, 2, padding="same"),
    "add_of_each": lambda x: x + OF_EACH,
    "multiply_of_places": lambda x: x * OF_PLACES,
    "subtract_from_rows": lambda x: ops.subtract(OF_ROWS, x),
    "divide_by_each": lambda x: x / (OF_EACH + 4.0),
    "softmax_of_rows": lambda x: ops.softmax(x, axis=1),
}
FUNCTIONS = {
    "clip": lambda x: ops.clip(x, -0.5, 1.0),
    "maximum": lambda x: ops.maximum(x, 0.3),
    "minimum": lambda x: ops.minimum(x, 0.3),
    "cube": lambda x: x**3,
    "power_of_two": lambda x: 2.0**x,
    "reciprocal": lambda x: 1.0 / (ops.abs(x) + 1.0),
    "logarithm": lambda x: ops.log(ops.square(x) + 0.1),
    "celu_with_another_alpha": lambda x: ops.celu(x, alpha=0.5),
    "threshold": lambda x: ops.threshold(x, 0.5, 0.1),
    "sign": lambda x: ops.sign(x),
    "where": lambda x: ops.where(x > 0, x, 0.1 * x - 0.2),
    "comparison": lambda x: ops.cast(x > 0.25, "float32") * x,
    "truncation": lambda x: x + ops.cast(ops.cast(2.0 * x, "int32"), "float32"),
    "array_of_one_number": lambda x: ops.minimum(x, np.array(0.25, np.float32)),
    "quotient": lambda x: x / (1.0 + ops.square(x)),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_becomes_layers_and_deploys(name, tmp_path):
    model = after_a_layer(ARITHMETIC[name])
    assert_equal_in_layers(model, tolerance=1e-5)  # sums in another order
    assert_deploys(model, tmp_path)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_one_number_becomes_a_table_and_deploys(name, tmp_path):
    model = after_a_layer(FUNCTIONS[name])
    assert_equal_in_layers(model, tolerance=1e-6)
    qmodel = assert_deploys(model, tmp_path)
    assert any(isinstance(layer, QuantizeFunction) for layer in qmodel.layers)


@pytest.mark.parametrize("bits", [2, 5])
def test_a_table_has_few_bits_where_the_config_says_so(bits, tmp_path):
    config = keras_qat.LSQConfig(activation_bits=bits, add_bits=bits)
    model = after_a_layer(lambda x: layers.Dense(2)(ops.clip(x, -1.0, 1.0)))
    assert_deploys(model, tmp_path, config)


def test_a_function_without_values_somewhere_is_zero_there(tmp_path):
    """As the logarithm of what only rounding or training makes negative."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.sqrt(layers.Dense(4, kernel_initializer="identity")(inputs)))
    x = np.abs(images(32, (4,)))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert np.isfinite(qmodel.predict(-x, verbose=0)).all()
    assert_no_flip_and_no_mismatch(qmodel, np.concatenate([x, -x]), tmp_path / "net.tflite")


def test_the_sign_of_a_function_is_found():
    def grid_is_signed(function):
        inputs = keras.Input((4,))
        positive = layers.Dense(4, activation="relu")(inputs)
        qmodel = keras_qat.quantize(
            keras.Model(inputs, function(positive)), calibration_data=images(64, (4,))
        )
        return qmodel.layers[-1].grid.qmin < 0

    assert grid_is_signed(lambda x: ops.log(x + 0.1))
    assert not grid_is_signed(lambda x: ops.log1p(x))
    assert not grid_is_signed(lambda x: ops.clip(x, -1.0, 1.0))


def one_over(x):
    return ops.reciprocal(ops.abs(x) + 1.0)


# The operation that is refused, and the form that its error names.
INSTEAD = {
    "Min": (lambda x: ops.min(x, axis=-1), lambda x: -ops.max(-x, axis=-1)),
    "TrueDivide": (
        lambda x: layers.Dense(4)(x) / (ops.abs(x) + 1.0),
        lambda x: layers.Dense(4)(x) * one_over(x),
    ),
    "Glu": (
        lambda x: ops.glu(x),
        lambda x: (lambda parts: parts[0] * ops.sigmoid(parts[1]))(ops.split(x, 2, axis=-1)),
    ),
    "Max": (
        lambda x: ops.max(x, axis=-1, initial=0.2),
        lambda x: ops.maximum(ops.max(x, axis=-1), 0.2),
    ),
    "Var": (
        lambda x: ops.var(x, axis=-1),
        lambda x: ops.mean(ops.square(x - ops.mean(x, axis=-1, keepdims=True)), axis=-1),
    ),
    "Matmul": (
        lambda x: ops.matmul(x, np.ones((4, 3), np.float32)),
        lambda x: layers.Dense(3)(x),
    ),
    "Ravel": (lambda x: ops.ravel(x), lambda x: layers.Flatten()(x)),
    "Resize": (
        lambda x: ops.image.resize(x, (12, 12)),
        lambda x: layers.UpSampling2D(2, interpolation="bilinear")(x),
    ),
}


@pytest.mark.parametrize("name", INSTEAD)
def test_the_error_names_a_form_that_works(name, tmp_path):
    refused, works = INSTEAD[name]
    with pytest.raises(UnsupportedLayerError) as error:
        keras_qat.quantize(after_a_layer(refused), calibration_data=images(8, (6, 6, 4)))
    assert f"({name}): this raw operation has no layer" in str(error.value)
    assert f"write {WRITE_INSTEAD[name]}" in str(error.value)
    assert_deploys(after_a_layer(works), tmp_path)


def test_a_constant_that_trains_is_not_made_a_table():
    factor = keras.Variable(0.5, name="factor")
    inputs = keras.Input((4,))
    x = ops.power(layers.Dense(4)(inputs), factor)
    with pytest.raises(UnsupportedLayerError, match=r"\(Power\): this raw operation"):
        keras_qat.quantize(keras.Model(inputs, x), calibration_data=images(8, (4,)))
