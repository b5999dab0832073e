"""Fused activations become layers; the function stays."""

import keras
import numpy as np
import pytest

import keras_qat
from tests.models import images, randomize
from tests.quantization.passes.alone import split_activations
from tests.untouched import untouched

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

WEIGHT_LAYERS = {
    "transpose": lambda activation: layers.Conv2DTranspose(
        4, 3, activation=activation, name="layer"
    ),
    "conv2d": lambda activation: layers.Conv2D(4, 3, activation=activation, name="layer"),
    "depthwise": lambda activation: layers.DepthwiseConv2D(3, activation=activation, name="layer"),
    "separable": lambda activation: layers.SeparableConv2D(
        4, 3, activation=activation, name="layer"
    ),
    "dense": lambda activation: layers.Dense(4, activation=activation, name="layer"),
}


def model_of(*stack):
    inputs = keras.Input((6, 6, 3), name="image")
    return randomize(keras.Sequential([inputs, *stack], name="net"))


@pytest.mark.parametrize("activation", ["relu", "relu6", "softmax", "silu"])
@pytest.mark.parametrize("kind", WEIGHT_LAYERS)
def test_the_function_is_the_same_and_the_weight_layer_is_linear(kind, activation):
    model, x = model_of(WEIGHT_LAYERS[kind](activation)), images(4, (6, 6, 3))
    with untouched(model, x):
        split = split_activations(model)
        np.testing.assert_array_equal(split(x), model(x))
    assert split.get_layer("layer").activation is keras.activations.linear
    assert split.get_layer(f"layer_{activation}").activation is keras.activations.get(activation)


def test_layers_without_a_fused_activation_are_copied_as_they_are():
    stack = [layers.Conv2D(4, 3, activation="relu", name="conv"), layers.ReLU(6.0, name="relu6")]
    model = model_of(*stack, layers.Activation("tanh", name="tanh"), layers.Flatten(name="flat"))
    split = split_activations(model)
    names = [layer.name for layer in split.layers][1:]
    assert names == ["conv", "conv_relu", "relu6", "tanh", "flat"]
    assert not set(map(id, split.layers)) & set(map(id, model.layers))
    assert split.get_layer("relu6").max_value == 6.0


def test_a_model_without_fused_activations_is_the_same_model():
    model = model_of(layers.Conv2D(4, 3, name="conv"), layers.ReLU(name="relu"))
    assert split_activations(model) is model


def test_a_layer_given_as_activation_is_copied():
    leaky = layers.LeakyReLU(0.1, name="leaky")
    model, x = model_of(layers.Conv2D(4, 3, activation=leaky, name="conv")), images(4, (6, 6, 3))
    with untouched(model, x):
        split = split_activations(model)
        np.testing.assert_array_equal(split(x), model(x))
    copy = split.get_layer("conv_leaky")
    assert copy is not leaky
    assert copy.negative_slope == 0.1


def test_a_shared_layer_is_split_once():
    inputs, dense = keras.Input((4,)), layers.Dense(4, activation="relu", name="dense")
    model = randomize(keras.Model(inputs, dense(dense(inputs))))
    x = images(4, (4,))
    with untouched(model, x):
        split = split_activations(model)
        np.testing.assert_array_equal(split(x), model(x))
    assert [layer.name for layer in split.layers][1:] == ["dense", "dense_relu"]


def test_the_copies_keep_what_training_needs():
    conv = layers.Conv2D(
        4, 3, activation="relu", kernel_regularizer="l2", kernel_constraint="non_neg", name="conv"
    )
    conv.trainable = False
    copy = split_activations(model_of(conv)).get_layer("conv")
    assert isinstance(copy.kernel_regularizer, keras.regularizers.L2)
    assert isinstance(copy.kernel_constraint, keras.constraints.NonNeg)
    assert not copy.trainable


def _losses(model, x):
    model(x)
    return float(sum(model.losses))


REGULARIZED = {
    "relu": lambda: layers.Dense(4, activation="relu", activity_regularizer="l2"),
    "softmax": lambda: layers.Dense(4, activation="softmax", activity_regularizer="l2"),
    "sigmoid": lambda: layers.Dense(4, activation="sigmoid", activity_regularizer="l2"),
    "linear": lambda: layers.Dense(4, activity_regularizer="l2"),
    "separable": lambda: layers.SeparableConv1D(4, 2, activation="tanh", activity_regularizer="l2"),
    "layer": lambda: layers.Conv1D(
        4, 2, activation=layers.LeakyReLU(0.3), activity_regularizer="l2"
    ),
    "both": lambda: layers.Conv1D(
        4,
        2,
        activation=layers.LeakyReLU(0.3, activity_regularizer="l1"),
        activity_regularizer="l2",
    ),
}


@pytest.mark.parametrize("make", REGULARIZED.values(), ids=list(REGULARIZED))
def test_an_activity_regularizer_sees_what_comes_out_of_the_activation(make, tmp_path):
    x = images(32, (6, 3))
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, make()(inputs))
    randomize(model)
    expected = _losses(model, x)
    assert _losses(split_activations(model), x) == pytest.approx(expected, rel=1e-6)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert _losses(qmodel, x) == pytest.approx(expected, rel=0.02)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert _losses(loaded, x) == _losses(qmodel, x)


MERGES = [layers.Add, layers.Average, layers.Multiply, layers.Maximum, layers.Concatenate]


@pytest.mark.parametrize("kind", MERGES, ids=lambda kind: kind.__name__)
def test_an_activity_regularizer_of_several_tensors_sees_their_whole_once(kind):
    x = images(32, (4,))
    inputs = keras.Input((4,))
    tensors = [inputs, layers.Dense(4)(inputs), layers.Dense(4)(inputs)]
    model = keras.Model(inputs, kind(activity_regularizer="l2")(tensors))
    expected = _losses(model, x)
    assert _losses(keras_qat.quantize(model, calibration_data=x), x) == pytest.approx(
        expected, rel=0.02
    )


def test_an_activity_regularizer_of_a_rescaled_input_is_kept():
    x = images(32, (4,))
    inputs = keras.Input((4,))
    rescaled = layers.Rescaling(0.5, activity_regularizer="l2")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(rescaled))
    expected = _losses(model, x)
    assert _losses(keras_qat.quantize(model, calibration_data=x), x) == pytest.approx(
        expected, rel=0.02
    )
