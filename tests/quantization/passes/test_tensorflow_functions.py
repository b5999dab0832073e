"""Functions that call TensorFlow become operations of Keras, and deploy as those do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_qat
from keras_qat.errors import UnsupportedLayerError
from keras_qat.quantization.passes.tensorflow_functions import on_symbolic
from tests.models import images
from tests.quantization.passes.rewritten import (
    after_a_layer,
    assert_deploys,
    assert_equal_in_layers,
)

pytestmark = [pytest.mark.slow_beyond(4), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
INDICES = [2, 0, 3]

FUNCTIONS = {
    "depth_to_space": lambda x: tf.nn.depth_to_space(x, 2),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x, 2),
    "reshape_to_the_batch": lambda x: tf.reshape(x, (tf.shape(x)[0], 144)),
    "relu6": tf.nn.relu6,
    "hard_swish": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.1),
    "clip": lambda x: tf.clip_by_value(x, -1.0, 0.5),
    "where": lambda x: tf.where(x > 0.0, x, 0.1 * x),
    "squared_difference": lambda x: tf.math.squared_difference(x, 0.5),
    "approximate_gelu": lambda x: tf.nn.gelu(x, approximate=True),
    "mean": lambda x: tf.reduce_mean(x, axis=[1, 2]),
    "sum_kept": lambda x: tf.reduce_sum(x, axis=-1, keepdims=True),
    "maximum": lambda x: tf.reduce_max(x, axis=1),
    "split": lambda x: tf.add(*tf.split(x, 2, axis=-1)),
    "split_by_sizes": lambda x: tf.split(x, [1, 3], axis=-1)[1],
    "stack": lambda x: tf.stack([x[:, 0], x[:, 1]], axis=1),
    "unstack": lambda x: tf.unstack(x, axis=1)[2],
    "concatenate": lambda x: tf.concat([x, tf.nn.relu(x)], axis=-1),
    "slice": lambda x: x[:, 1:-1:2, ..., tf.newaxis, -1],
    "slice_of_sizes": lambda x: tf.slice(x, [0, 1, 2, 0], [-1, 3, -1, 2]),
    "gather": lambda x: tf.gather(x, INDICES, axis=-1),
    "transpose": lambda x: tf.transpose(x, (0, 2, 3, 1)),
    "squeeze": lambda x: tf.squeeze(tf.expand_dims(x, 2), axis=2),
    "reverse": lambda x: tf.reverse(x, axis=[1, -1]),
    "tile": lambda x: tf.tile(x, (1, 2, 1, 1)),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    "average_pool": lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
    "max_pool": lambda x: tf.nn.max_pool2d(x, (3, 2), 1, "SAME"),
    "softmax": lambda x: tf.nn.softmax(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_computes_the_same_in_a_lambda_and_deploys(name, tmp_path):
    model = after_a_layer(layers.Lambda(FUNCTIONS[name], name="own"))
    assert_equal_in_layers(model, tolerance=1e-5)
    assert_deploys(model, tmp_path)


def test_it_is_an_activation(tmp_path):
    own = layers.Dense(3, activation=lambda x: tf.minimum(tf.nn.relu(x), 1.5), name="own")
    assert_deploys(after_a_layer(own), tmp_path)


def test_a_layer_of_the_users_own_may_call_it(tmp_path):
    class Shuffled(layers.Layer):
        def call(self, x, training=None):
            return tf.nn.depth_to_space(x, 2)

    assert_deploys(after_a_layer(Shuffled(name="own")), tmp_path)


def test_arguments_and_structures_stay():
    inputs = keras.Input((4,))
    found = on_symbolic(lambda x, by=1.0: {"sum": tf.add(x, by), "x": x}, (inputs,), {"by": 2.0})
    model = keras.Model(inputs, found)
    x = images(3, (4,))
    outputs = model.predict(x, verbose=0)
    np.testing.assert_array_equal(outputs["sum"], x + np.float32(2.0))
    np.testing.assert_array_equal(outputs["x"], x)


def test_the_error_of_the_function_is_kept():
    def wrong(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        on_symbolic(wrong, (keras.Input((4,)),))


class OwnWeights(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return tf.multiply(x, self.factor)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: OwnWeights(name="own"), "no rule"),
        (lambda: layers.Lambda(lambda x: tf.image.resize(x, (9, 9)), name="own"), "with keras.ops"),
        (lambda: layers.Lambda(lambda x: tf.cumsum(x), name="own"), "with keras.ops"),
    ],
    ids=["weights", "resize", "cumsum"],
)
def test_weights_and_other_operations_are_refused(layer, message):
    model = after_a_layer(layer())
    with pytest.raises(UnsupportedLayerError, match=f"'own' .*{message}"):
        keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))


def test_the_way_out_of_the_refusal_works(tmp_path):
    assert_deploys(after_a_layer(layers.Lambda(lambda x: ops.clip(x, 0.1, 1.0))), tmp_path)
