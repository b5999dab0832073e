"""Squeeze-and-excite blocks: trained a step, exported, and equal in every runtime."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.quantized_layers.product import ProductAccumulator
from tests.models import images, randomize
from tests.seams import op_differences

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def squeeze_and_excite(x, name, max_value=None):
    """The block of MobileNetV3 and EfficientNet: one factor for every channel."""
    channels = x.shape[-1]
    squeezed = layers.GlobalAveragePooling2D(name=f"{name}_squeeze")(x)
    squeezed = layers.Reshape((1, 1, channels), name=f"{name}_reshape")(squeezed)
    squeezed = layers.Conv2D(4, 1, activation="relu", name=f"{name}_reduce")(squeezed)
    squeezed = layers.Conv2D(channels, 1, name=f"{name}_expand")(squeezed)
    squeezed = layers.ReLU(max_value, name=f"{name}_gate")(squeezed)
    return layers.Multiply(name=f"{name}_excite")([x, squeezed])


def network():
    inputs = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="stem")(inputs)
    x = squeeze_and_excite(x, "first", max_value=6.0)
    short = x
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(name="depthwise_relu")(layers.BatchNormalization(name="norm")(x))
    x = squeeze_and_excite(x, "second")
    x = layers.Add(name="shortcut")([short, layers.Conv2D(8, 1, name="project")(x)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(inputs, layers.Dense(5, name="head")(x), name="squeeze"))


@pytest.fixture(scope="module", params=[4, 8])
def trained(request):
    keras.utils.set_random_seed(0)
    x = images(32, (10, 10, 3))
    config = keras_qat.LSQConfig(weight_bits=request.param, activation_bits=request.param)
    qmodel = keras_qat.quantize(network(), config, calibration_data=x)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    qmodel.fit(x, np.arange(32) % 5, verbose=0)
    return qmodel


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_file_computes_the_learned_integers(trained, target, tmp_path):
    # Random labels leave no clear winners: the share of kept winners is not this test's subject.
    report = tflite_export.export(
        trained,
        tmp_path / "net.tflite",
        target=target,
        samples=images(16, (10, 10, 3)),
        min_argmax_agreement=0.0,
        max_flip_rate=1.0,
        verbose=False,
    )
    assert report.mismatches == 0


def test_each_op_is_what_keras_trained(trained):
    differences = op_differences(trained.to_integer(), trained.layer_codes(images(16, (10, 10, 3))))
    assert {"first_excite", "second_excite"} <= {difference.name for difference in differences}
    assert all(difference.largest <= 1 for difference in differences), differences


def test_factors_have_the_width_of_what_enters_an_add(trained):
    bits = {quantizer.name: quantizer.bits for quantizer in trained.quantizers}
    assert bits["first_gate_quantizer"] == bits["depthwise_relu_quantizer"] == 8
    assert bits["first_reduce_relu_quantizer"] == bits["second_reduce_relu_quantizer"]


@pytest.mark.slow
def test_a_saved_model_rounds_its_products_alike(trained, tmp_path):
    trained.save(tmp_path / "net.keras")
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    quantizer = loaded.get_layer("second_excite_quantizer")
    assert isinstance(quantizer.accumulators[0], ProductAccumulator)
    x = images(16, (10, 10, 3))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), trained.predict(x, verbose=0))
