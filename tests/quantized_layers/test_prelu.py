"""A PReLU with several slopes is, in inference, what LiteRT's kernel computes."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import integer
from keras_qat.integer import QuantParams, ops
from keras_qat.quantized_layers import QuantizePReLU
from keras_qat.quantized_layers.prelu import PReLUGrids
from keras_qat.quantizers import SlopeQuantizer
from tests.models import images
from tests.quantized_layers.test_product import CODES, quantizer
from tests.seams import op_differences

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
SLOPES = np.arange(-127, 128, dtype=np.float32)


def network(shared_axes=(1, 2), initializer="zeros"):
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    slopes = keras.initializers.get(initializer)
    x = layers.PReLU(slopes, shared_axes=shared_axes, name="prelu")(x)
    return keras.Model(inputs, layers.Dense(3, name="dense")(layers.Flatten(name="flat")(x)))


def flips(qmodel, x):
    """The share of its elements in which the model's PReLU is not its integer op."""
    differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
    return next(each.flip_rate for each in differences if each.name == "prelu")


@pytest.mark.parametrize("seed", range(8))
def test_every_product_of_code_and_slope_is_that_of_the_integer_op(seed):
    """The kernel rounds twice: rounding once ends elsewhere, where the output is coarser."""
    generator = np.random.default_rng(seed)
    source, output = generator.uniform(0.01, 1.0, 2).astype(np.float32)
    slope = np.float32(generator.uniform(0.001, 0.02))
    grids = PReLUGrids(quantizer(source), quantizer(output))
    found = grids.integer_prelu(CODES[:, None] * source, SLOPES * slope, slope)
    op = ops.PReLU(("x",), "y", ops.QuantizedArray(SLOPES.astype(np.int8), QuantParams(slope)))
    x = ops.QuantizedArray(CODES[:, None].astype(np.int8), QuantParams(source))
    expected = op.evaluate([x], QuantParams(output), integer.PROFILES["xnnpack"])
    codes = np.clip(np.rint(np.asarray(found) / output), -128, 127)
    np.testing.assert_array_equal(codes, expected)


def test_rounding_once_would_differ():
    source, output = np.float32(0.1), np.float32(0.23)
    kernel = PReLUGrids(quantizer(source), quantizer(output))
    x = CODES[128:] * source
    twice = np.rint(np.asarray(kernel.integer_prelu(x, np.float32(0.5), np.float32(0.5))) / output)
    assert np.mean(twice != np.rint(x / output)) > 0.05


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shared_axes", [(1, 2), (1,), None], ids=["channels", "rows", "elements"])
def test_the_model_is_its_integer_ops(shared_axes, bits):
    model = network(shared_axes, keras.initializers.RandomUniform(-0.5, 1.5, seed=0))
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits, add_bits=bits)
    x = images(64, (6, 6, 3))
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    assert isinstance(qmodel.get_layer("prelu"), QuantizePReLU)
    assert "prelu" in {op.output.removesuffix("/unclamped") for op in qmodel.to_integer().ops}
    assert flips(qmodel, x) == 0


def test_slopes_are_learned_from_zero_and_survive_a_file(tmp_path):
    """Keras begins slopes at zero."""
    x, y = images(64, (6, 6, 3)), np.arange(64) % 3
    qmodel = keras_qat.quantize(network(), "lsq", calibration_data=x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(0.05), loss)
    qmodel.fit(x, y, epochs=2, verbose=0)
    (op,) = (op for op in qmodel.to_integer().ops if isinstance(op, ops.PReLU))
    assert np.count_nonzero(op.slopes.values) == 4
    qmodel.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    assert flips(loaded, x) == 0


def test_the_gradient_of_slopes_is_that_of_keras_through_the_grid():
    import tensorflow as tf

    layer = layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")
    layer.build((None, 2, 2, 3))
    wrapper = QuantizePReLU.of(layer)
    wrapper.build((None, 2, 2, 3))
    wrapper.layer.set_weights(layer.get_weights())
    wrapper.weight_quantizer.set_scale(1.0 / 64)
    x = tf.constant(images(4, (2, 2, 3)) - 0.5)
    with tf.GradientTape(persistent=True) as tape:
        ours, theirs = wrapper(x, training=True), layer(x)
    np.testing.assert_array_equal(ours, theirs)
    found = tape.gradient(ours, wrapper.layer.alpha)
    expected = tape.gradient(theirs, layer.alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_frozen_prelu_keeps_its_function():
    model = network(initializer="ones")
    model.get_layer("prelu").trainable = False
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=images(8, (6, 6, 3)))
    assert not qmodel.get_layer("prelu").trainable_variables


def test_all_zero_slopes_begin_with_a_range_of_one():
    slopes = SlopeQuantizer()
    slopes.build((1, 1, 4))
    slopes.calibrate_weights(np.full((1, 1, 4), 0.25))
    assert float(slopes.scale) == pytest.approx(0.25 / 127)
    slopes.calibrate_weights(np.zeros((1, 1, 4)))
    assert float(slopes.scale) == np.float32(1 / 127)
