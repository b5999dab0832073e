"""Connections of layers, and the law that the inference bias lies on the file's grid."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import integer
from keras_qat.integer import ops
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantizers import Quantizer
from tests.models import images, randomize, residual_network
from tests.seams import op_differences

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def chain(bn, relu, kind):
    inputs = keras.Input((8, 8, 3), name="image")
    first = {
        "conv": lambda: layers.Conv2D(5, 3, name="layer"),
        "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="layer"),
        "transpose": lambda: layers.Conv2DTranspose(5, 3, strides=2, name="layer"),
        "grouped": lambda: layers.Conv2D(6, 3, groups=3, name="layer"),
        "no_bias": lambda: layers.Conv2D(5, 3, use_bias=False, name="layer"),
    }
    x = first[kind]()(inputs)
    x = layers.BatchNormalization(name="bn")(x) if bn else x
    x = layers.ReLU(name="relu")(x) if relu else x
    return randomize(keras.Model(inputs, x))


def quantized(model, bits=4, **config):
    config = {"first_and_last_bits": bits, "weight_bits": bits, "activation_bits": bits, **config}
    x = images(32, model.inputs[0].shape[1:])
    return keras_qat.quantize(model, keras_qat.LSQConfig(**config), calibration_data=x)


def linear_ops(qmodel):
    graph = integer.add_headroom(qmodel.to_integer())
    return graph, [op for op in graph.ops if isinstance(op, ops.LinearOp)]


def assert_bias_on_the_grid(qmodel):
    """The real bias is a whole number of the file's steps.

    Keras holds it in float32, and with a BatchNormalization as `(rounded - offset) / gain`: the
    error is a few float32 roundings of the largest number on the way.
    """
    graph, linear = linear_ops(qmodel)
    assert linear
    for op in linear:
        steps = op.bias / op.bias_scale(graph.tensors[op.inputs[0]].qparams.scale).astype(float)
        reach = np.maximum(np.abs(steps), np.abs(steps).max())
        tolerance = 8 * np.finfo(np.float32).eps * reach
        assert tolerance.max() < 0.1, "a tolerance near 1/2 would prove nothing"
        assert np.all(np.abs(steps - np.rint(steps)) <= tolerance), op.output


KINDS = ["conv", "depthwise", "transpose", "grouped", "no_bias"]
# Every kind at every width, and each of the two layers behind it with and without everything else.
BIAS_CASES = [
    ((place + power) % 2 == 0, (place + power // 2) % 2 == 0, kind, 2**power)
    for place, kind in enumerate(KINDS)
    for power in range(4)
]


@pytest.mark.parametrize(("bn", "relu", "kind", "bits"), BIAS_CASES)
def test_the_inference_bias_is_on_the_int32_grid_of_the_file(bn, relu, kind, bits):
    qmodel = quantized(chain(bn, relu, kind), bits)
    assert qmodel.get_layer("layer").connections
    assert_bias_on_the_grid(qmodel)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv1D(5, 3, padding="causal", name="layer"),
        layers.DepthwiseConv1D(3, name="layer"),
        layers.Dense(5, name="layer"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_law_holds_over_sequences(layer):
    inputs = keras.Input((8, 3), name="signal")
    x = layers.BatchNormalization()(type(layer).from_config(layer.get_config())(inputs))
    qmodel = quantized(randomize(keras.Model(inputs, layers.ReLU()(x))), 3)
    assert qmodel.get_layer("layer").connections[0].affines
    assert_bias_on_the_grid(qmodel)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_law_holds_through_a_whole_network(bits):
    assert_bias_on_the_grid(quantized(residual_network(), bits))


def test_the_law_holds_after_training():
    qmodel = quantized(residual_network())
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    qmodel.fit(images(64), np.arange(64) % 5, batch_size=16, epochs=2, verbose=0)
    assert_bias_on_the_grid(qmodel)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_whole_network_flips_almost_nothing(bits):
    """Each op on Keras' own integers, with XNNPACK's rounding.

    What is left is Keras' float32 sums against exact ones, which decides only values within about
    1e-6 steps of a tie: of 270,000 elements, less than one on average.
    """
    x = images(64, seed=1)
    qmodel = quantized(residual_network(), bits)
    graph = integer.add_headroom(qmodel.to_integer())
    codes = qmodel.layer_codes(x)
    found = {d.name: d for d in op_differences(graph, codes)}
    flips = sum(d.flip_rate * codes[name].size for name, d in found.items())
    assert len(found) == 8
    assert sum(codes[name].size for name in found) > 260_000
    assert flips <= 3, found
    assert max(d.largest for d in found.values()) <= 1


def test_without_the_grid_the_bias_would_be_off_it():
    """The law is not true by itself."""
    qmodel = quantized(chain(True, True, "conv"))
    qmodel.get_layer("layer").connections.clear()
    with pytest.raises(AssertionError):
        assert_bias_on_the_grid(qmodel)


def test_training_uses_the_real_bias():
    qmodel = quantized(chain(False, False, "conv"))
    wrapper, x = qmodel.get_layer("layer"), images(4, (8, 8, 3))
    trained, deployed = wrapper(x, training=True), wrapper(x, training=False)
    assert np.any(np.asarray(trained) != np.asarray(deployed))
    wrapper.connections.clear()
    np.testing.assert_array_equal(wrapper(x, training=False), trained)


def test_the_move_is_at_most_half_a_step():
    qmodel = quantized(chain(False, False, "conv"))
    wrapper = qmodel.get_layer("layer")
    graph, (op,) = linear_ops(qmodel)
    moved = np.abs(np.asarray(wrapper.deployed_bias()) - wrapper.layer.bias.numpy())
    # The stored weights of a 4-bit grid have 3 bits of headroom: a step is an 8th of s_x * s_w.
    step = np.asarray(wrapper.weight_quantizer.scale) * graph.tensors["image"].qparams.scale / 8
    assert np.all(moved <= 0.5 * step)
    assert np.any(moved > 0.1 * step)
    # A channel whose codes are small has more headroom than its grid says.
    assert np.all(op.bias_scale(graph.tensors["image"].qparams.scale) <= step)


def grids_around(qmodel, name):
    found = qmodel.get_layer(name).connections[0]
    return (
        found.input_quantizer.name,
        next((layer.name for layer in found.affines), None),
        found.output_quantizer.name,
    )


def test_grids_are_found_through_layers_that_keep_the_grid():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Dropout(0.1)(layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(inputs)))
    x = layers.Conv2D(4, 1, name="conv")(layers.AveragePooling2D(2)(x))
    x = layers.Activation("relu", name="relu")(layers.BatchNormalization(name="bn")(x))
    qmodel = quantized(keras.Model(inputs, layers.Dense(2, name="dense")(layers.Flatten()(x))))
    assert grids_around(qmodel, "conv") == ("image_quantizer", "bn", "relu_quantizer")
    assert grids_around(qmodel, "dense") == ("relu_quantizer", None, "dense_quantizer")


def test_a_normalization_that_another_layer_stands_before_does_not_join():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 3, name="conv")(inputs))
    qmodel = quantized(keras.Model(inputs, layers.BatchNormalization(name="bn")(x)))
    assert grids_around(qmodel, "conv") == ("image_quantizer", None, "relu_quantizer")


def test_a_convolution_behind_a_softmax_reads_its_grid():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Softmax(name="softmax")(layers.Conv2D(4, 1, name="first")(inputs))
    qmodel = quantized(keras.Model(inputs, layers.Conv2D(2, 1, name="second")(x)))
    assert grids_around(qmodel, "second")[0] == "softmax_quantizer"
    assert_bias_on_the_grid(qmodel)


def test_a_layer_called_twice_has_connections_for_each_call():
    inputs, conv = keras.Input((8, 8, 3), name="image"), layers.Conv2D(3, 1, name="conv")
    outputs = layers.Conv2D(2, 1, name="conv_1")(conv(conv(inputs)))
    qmodel = quantized(randomize(keras.Model(inputs, outputs)))
    assert list(qmodel.get_layer("conv").connections) == [0, 1]
    assert list(qmodel.get_layer("conv_1").connections) == [0]
    x = images(16, (8, 8, 3))
    graph, codes = qmodel.to_integer(), qmodel.layer_codes(x)
    names = [op.output for op in graph.ops if op.output in codes]
    assert names == ["conv", "conv_2", "conv_1"]  # the second call keeps off the other's name
    assert all(d.largest <= 1 for d in op_differences(graph, codes))


def test_every_call_of_a_layer_has_its_bias_on_the_grid_of_that_call():
    """From 2 bits to the 8 of a tanh, one unit of the accumulator is many steps of the output."""
    inputs = keras.Input((8, 8, 3), name="image")
    conv = layers.Conv2D(3, 1, name="conv")
    x = layers.ReLU(name="relu")(conv(inputs))
    model = randomize(keras.Model(inputs, layers.Activation("tanh", name="tanh")(conv(x))))
    model.get_layer("conv").bias.assign([0.3, -0.2, 0.1])
    config = keras_qat.LSQConfig(weight_bits=1, activation_bits=2, first_and_last_bits=1)
    x = images(16, (8, 8, 3))
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    for twin in (qmodel, keras.models.clone_model(qmodel)):
        twin.set_weights(qmodel.get_weights())
        differences = op_differences(twin.to_integer(), twin.layer_codes(x))
        assert all(each.largest <= 1 for each in differences), differences


def test_the_file_has_the_bias_of_every_call():
    """The first call reads 1 bit: its bias is on a grid coarser than a step of both outputs."""
    inputs = keras.Input((7, 6, 2), name="image")
    conv = layers.Conv2D(2, 3, padding="same", name="conv")
    clipped = layers.ReLU(max_value=5.0, name="relu")(inputs)
    total = layers.Add(name="sum")([conv(inputs), conv(clipped)])
    model = randomize(keras.Model(inputs, total))
    model.get_layer("conv").bias.assign([0.3, -0.2])
    x = np.abs(images(16, (7, 6, 2)))
    config = keras_qat.LSQConfig(per_channel=False, input_bits=1)
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
    assert {each.flip_rate for each in differences} == {0.0}, differences


@pytest.mark.parametrize("float_layer", ["bn", "second"])
def test_a_layer_beside_one_in_float_has_its_grids(float_layer):
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="second")(x)))
    qmodel = keras_qat.quantize(
        model, overrides={float_layer: None}, calibration_data=images(8, (8, 8, 3))
    )
    linked = {
        layer.name: bool(layer.connections)
        for layer in qmodel.layers
        if isinstance(layer, QuantizeWrapper)
    }
    assert (
        linked
        == {
            "bn": {"first": True, "second": True},
            "second": {"first": True},
        }[float_layer]
    )


def test_a_dead_channel_does_no_harm():
    """A gain of exactly zero leaves nothing to divide by."""
    model = chain(True, True, "conv")
    model.get_layer("bn").gamma.assign([1.0, 0.0, 1e-38, -1.0, 0.5])
    qmodel = quantized(model)
    x = images(8, (8, 8, 3))
    assert np.all(np.isfinite(qmodel.predict(x, verbose=0)))
    assert np.all(np.isfinite(np.asarray(qmodel.get_layer("layer").deployed_bias())))
    assert all(d.largest <= 1 for d in op_differences(qmodel.to_integer(), qmodel.layer_codes(x)))


def test_quantizers_know_what_is_never_negative():
    inputs = keras.Input((8, 8, 3), name="image")
    left = layers.Conv2D(4, 3, padding="same", activation="relu", name="left")(inputs)
    right = layers.Conv2D(4, 3, padding="same", activation="sigmoid", name="right")(inputs)
    total = layers.Add(name="sum")([left, right])
    pooled = layers.AveragePooling2D(2, name="pool")(total)
    mixed = layers.Subtract(name="difference")([left, right])
    outputs = layers.Conv2D(2, 8, name="head")(layers.Concatenate(name="both")([mixed, total]))
    model = keras.Model(inputs, [pooled, outputs])
    qmodel = quantized(randomize(model))
    known = {
        layer.name.removesuffix("_quantizer"): layer.never_negative
        for layer in qmodel.layers
        if isinstance(layer, Quantizer)
    }
    assert known == {
        "image": False,
        "left_relu": True,
        "right": False,
        "right_sigmoid": True,
        "both": False,
        "head": False,
    }
    loaded = keras.models.clone_model(qmodel)
    assert loaded.get_layer("left_relu_quantizer").never_negative
