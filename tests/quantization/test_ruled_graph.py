"""A Rescaling of the input by one factor is no op: weight layers take on the factor, exactly."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.integer import ops
from keras_qat.quantization.passes.layer_copies import nothing_stays_float
from keras_qat.quantization.ruled_graph import ABSORBED, RuledGraph
from keras_qat.quantized_layers import QuantizeRescaling
from tests.models import randomize
from tests.seams import assert_no_flip_and_no_mismatch

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def pixels(examples=32, shape=(8, 8, 3)):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (examples, *shape)).astype(np.float32)


def network(*first, make=lambda: layers.Conv2D(4, 3, padding="same", name="conv")):
    """`first`, a weight layer, and what usually follows it."""
    inputs = x = keras.Input((8, 8, 3), name="image")
    for layer in first:
        x = layer(x)
    x = layers.BatchNormalization(name="bn")(make()(x))
    x = layers.Flatten(name="flat")(layers.ReLU(name="relu")(x))
    return randomize(keras.Model(inputs, layers.Dense(3, name="dense")(x)))


def absorbed(model):
    graph = RuledGraph(model, nothing_stays_float)
    return [call.name for call in graph.calls if call.rule is ABSORBED]


def quantized(model, bits=4):
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits, first_and_last_bits=bits)
    return keras_qat.quantize(model, config, calibration_data=pixels())


MAKERS = {
    "conv": lambda: layers.Conv2D(4, 3, padding="same", name="conv"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, name="conv"),
    "separable": lambda: layers.SeparableConv2D(4, 3, name="conv"),
    "transpose": lambda: layers.Conv2DTranspose(4, 3, strides=2, name="conv"),
    "dense": lambda: layers.Dense(4, name="conv"),
}


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_file_begins_with_the_weight_layer_and_computes_what_the_model_does(
    kind, bits, tmp_path
):
    model = network(layers.Rescaling(1 / 255, name="rescaling"), make=MAKERS[kind])
    qmodel = quantized(model, bits)
    graph = qmodel.to_integer()
    assert isinstance(graph.ops[0], ops.LinearOp | ops.Reshape)
    assert graph.inputs == ("image",)
    assert float(graph.tensors["image"].qparams.scale) == 1.0
    assert_no_flip_and_no_mismatch(qmodel, pixels(), tmp_path / "m.tflite")


def test_training_multiplies_by_the_factor():
    """A step of the grids around the convolution apart from it, at 8 bits."""
    model = network(layers.Rescaling(1 / 255, name="rescaling"))
    ours = quantized(model, 8).get_layer("conv")
    expected = model.get_layer("conv")(pixels() / 255)
    found = ours(pixels(), training=True)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_the_factor_survives_a_file(tmp_path):
    qmodel = quantized(network(layers.Rescaling(1 / 255)))
    qmodel.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("conv").input_gain == 1 / 255
    np.testing.assert_array_equal(loaded(pixels()), qmodel(pixels()))


def test_x_over_255_is_one_too():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Flatten(name="flat")(layers.Conv2D(4, 3, name="conv")(inputs / 255.0))
    qmodel = quantized(keras.Model(inputs, layers.Dense(3, name="dense")(x)))
    assert qmodel.get_layer("conv").input_gain == pytest.approx(1 / 255)
    assert not any(isinstance(layer, QuantizeRescaling) for layer in qmodel.layers)


@pytest.mark.parametrize(
    "rescaling",
    [
        layers.Rescaling(1 / 127.5, offset=-1.0),
        layers.Rescaling(-1 / 255),
        layers.Rescaling([1.0, 0.5, 2.0]),
        layers.Rescaling(0.0),
    ],
    ids=["offset", "negative", "channels", "zero"],
)
def test_what_is_no_positive_factor_stays_an_op(rescaling):
    model = network(rescaling)
    assert not absorbed(model)
    assert any(isinstance(layer, QuantizeRescaling) for layer in quantized(model).layers)


@pytest.mark.parametrize("second", [layers.ReLU(), layers.ZeroPadding2D(), layers.Rescaling(2.0)])
def test_what_other_layers_read_stays_an_op(second):
    model = network(layers.Rescaling(1 / 255, name="rescaling"), second)
    assert not absorbed(model)


def test_two_readers_take_it_on_and_an_output_does_not():
    inputs = keras.Input((8, 8, 3), name="image")
    rescaled = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    left, right = (layers.Conv2D(4, 3, name=name)(rescaled) for name in ("left", "right"))
    model = keras.Model(inputs, layers.Add(name="sum")([left, right]))
    qmodel = quantized(randomize(model))
    assert {qmodel.get_layer(name).input_gain for name in ("left", "right")} == {1 / 255}
    seen = keras.Model(inputs, [rescaled, left])
    assert not absorbed(seen)


def test_a_weight_layer_in_float_reads_the_rescaled_input():
    model = network(layers.Rescaling(1 / 255, name="rescaling"))
    qmodel = keras_qat.quantize(model, "lsq", overrides={"conv": None}, calibration_data=pixels())
    assert any(isinstance(layer, QuantizeRescaling) for layer in qmodel.layers)


def test_a_layer_that_is_called_twice_reads_the_rescaled_input():
    inputs = keras.Input((8, 8, 3), name="image")
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    model = keras.Model(inputs, conv(conv(layers.Rescaling(1 / 255)(inputs))))
    assert not absorbed(model)
