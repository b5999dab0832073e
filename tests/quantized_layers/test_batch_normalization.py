"""QuantizeBatchNormalization in training: one kernel, and what Keras computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantized_layers import QuantizeBatchNormalization

pytestmark = pytest.mark.slow_beyond(1)

SIZES = {"image": (4, 5, 6, 3), "row": (9, 1, 1, 3), "one": (1, 1, 1, 3), "features": (7, 3)}


def trained(layer, x, upstream):
    """Outputs, gradients of inputs and weights, and the running statistics after two steps."""
    x = tf.constant(x)
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
        gradients = tape.gradient(outputs, [x, *layer.trainable_weights], upstream)
    return [*map(np.asarray, (outputs, *gradients)), *layer.get_weights()]


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=str)
@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_it_trains_as_keras_does(shape, options):
    generator = np.random.default_rng(0)
    x, upstream = (generator.normal(1.0, 2.0, shape).astype(np.float32) for _ in range(2))
    layers = keras.layers.BatchNormalization(**options), QuantizeBatchNormalization(**options)
    weights = None
    for layer in layers:
        layer.build(shape)
        weights = weights or [generator.uniform(0.5, 1.5, w.shape) for w in layer.weights]
        layer.set_weights(weights)
    expected, actual = (trained(layer, x, upstream) for layer in layers)
    for one, other in zip(expected, actual, strict=True):
        # float32 sums of up to 120 terms in another order
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5)


def test_frozen_it_normalizes_by_the_running_statistics():
    layer = QuantizeBatchNormalization()
    layer.build((None, 4, 4, 2))
    layer.moving_mean.assign([1.0, 2.0])
    layer.trainable = False
    x = np.ones((2, 4, 4, 2), np.float32)
    np.testing.assert_allclose(layer(x, training=True)[0, 0, 0], [0.0, -1.0], atol=1e-3)
    np.testing.assert_array_equal(layer.moving_mean, [1.0, 2.0])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
def test_outputs_have_the_type_of_the_policy(policy):
    layer = QuantizeBatchNormalization(dtype=policy)
    outputs = layer(np.ones((2, 4, 4, 2), np.float32), training=True)
    assert outputs.dtype == keras.DTypePolicy(policy).compute_dtype
