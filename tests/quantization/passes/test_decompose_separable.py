"""SeparableConv2D becomes two layers; the function stays."""

import keras
import numpy as np
import pytest

from keras_qat.quantization.passes.layer_copies import nothing_stays_float
from keras_qat.quantization.passes.normalize import normalize
from tests.models import images, randomize
from tests.quantization.passes.alone import decompose_separable
from tests.untouched import untouched

layers = keras.layers


def separable_model(**arguments):
    inputs = keras.Input((8, 8, 3), name="image")
    layer = layers.SeparableConv2D(5, 3, name="sep", **arguments)
    return randomize(keras.Model(inputs, layers.ReLU(name="relu")(layer(inputs))))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strides": 2, "padding": "same"},
        {"depth_multiplier": 2, "use_bias": False},
        {"dilation_rate": 2},
        {"activation": "relu"},
    ],
    ids=str,
)
def test_the_function_is_the_same(arguments):
    model, x = separable_model(**arguments), images(4, (8, 8, 3))
    with untouched(model, x):
        decomposed = decompose_separable(model)
        # TensorFlow computes a SeparableConv2D as just these two convolutions.
        np.testing.assert_array_equal(decomposed(x), model(x))
    assert [layer.name for layer in decomposed.layers] == ["image", "sep_depthwise", "sep", "relu"]
    assert [type(layer) for layer in decomposed.layers[1:3]] == [
        layers.DepthwiseConv2D,
        layers.Conv2D,
    ]


def test_a_shared_layer_stays_shared():
    inputs = keras.Input((8, 8, 3))
    separable = layers.SeparableConv2D(3, 3, padding="same", name="sep")
    model = randomize(keras.Model(inputs, separable(separable(inputs))))
    x = images(4, (8, 8, 3))
    decomposed = decompose_separable(model)
    np.testing.assert_array_equal(decomposed(x), model(x))
    assert len(decomposed.weights) == len(model.weights) == 3


def test_origins_name_the_layer_that_the_user_knows():
    _, origins = normalize(separable_model(), nothing_stays_float)
    assert origins == {"sep_depthwise": "sep"}


def test_both_halves_keep_what_training_needs():
    model = separable_model(
        depthwise_regularizer="l1", pointwise_regularizer="l2", pointwise_constraint="non_neg"
    )
    model.get_layer("sep").trainable = False
    decomposed = decompose_separable(model)
    depthwise, pointwise = decomposed.get_layer("sep_depthwise"), decomposed.get_layer("sep")
    assert isinstance(depthwise.depthwise_regularizer, keras.regularizers.L1)
    assert isinstance(pointwise.kernel_regularizer, keras.regularizers.L2)
    assert isinstance(pointwise.kernel_constraint, keras.constraints.NonNeg)
    assert not depthwise.trainable
    assert not pointwise.trainable


def test_a_model_without_one_is_the_same_model():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(3, name="dense")(inputs))
    assert decompose_separable(model) is model
