"""Networks over sequences, and encoder-decoders: trained, exported for both targets, proven."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from tests.models import images, randomize
from tests.seams import op_differences

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def sequence_network() -> keras.Model:
    inputs = keras.Input((24, 3), name="signal")
    x = layers.Conv1D(6, 3, padding="causal", use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="conv_bn")(x)
    shortcut = x = layers.ReLU(name="conv_relu")(x)
    x = layers.DepthwiseConv1D(3, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    x = layers.ReLU(name="depthwise_relu")(x)
    x = layers.Add(name="add")([shortcut, layers.Dense(6, name="mix")(x)])
    x = layers.MaxPooling1D(2, name="max_pool")(x)
    x = layers.SeparableConv1D(8, 3, activation="relu", name="separable")(x)
    x = layers.AveragePooling1D(2, name="average_pool")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return randomize(keras.Model(inputs, layers.Dense(4, name="head")(x), name="sequence"))


def encoder_decoder() -> keras.Model:
    inputs = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="down")(inputs)
    x = layers.Conv2D(6, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", use_bias=False, name="up")(x)
    x = layers.BatchNormalization(name="up_bn")(x)
    x = layers.ReLU(name="up_relu")(x)
    outputs = layers.Conv2DTranspose(2, 2, strides=2, name="image_out")(x)
    return randomize(keras.Model(inputs, outputs, name="decoder"))


def trained(model, bits):
    x = images(32, model.inputs[0].shape[1:])
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((32, *model.outputs[0].shape[1:])), epochs=1, verbose=0)
    return qmodel, x


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("make", [sequence_network, encoder_decoder])
def test_it_trains_exports_and_is_proven(make, bits, tmp_path):
    qmodel, x = trained(make(), bits)
    graph = qmodel.to_integer()
    for difference in op_differences(graph, qmodel.layer_codes(x)):
        assert difference.largest <= 1, difference
    for target in ("litert", "tflm"):
        path = tmp_path / f"{target}.tflite"
        report = tflite_export.export(qmodel, path, target=target, samples=x, verbose=False)
        assert report.mismatches == 0
    reloaded = tmp_path / "model.keras"
    qmodel.save(reloaded)
    np.testing.assert_array_equal(keras_qat.load_model(reloaded)(x), qmodel(x))
    runtime = tflite_export.predict(tmp_path / "litert.tflite", x)
    grid = graph.tensors[graph.outputs[0]].qparams
    assert np.abs(runtime - qmodel.predict(x, verbose=0)).max() <= 2.01 * float(grid.scale)


def test_layers_over_sequences_in_a_row_have_no_reshape_between_them():
    qmodel, _ = trained(sequence_network(), 8)
    kinds = [type(op).__name__ for op in qmodel.to_integer().ops]
    assert kinds.count("Reshape") == 1
    assert kinds[0] == "Reshape"


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_sequence_is_an_output_before_and_behind_its_relu(target, tmp_path):
    """The ReLU reads the image of one row, which the model does not state."""
    inputs = keras.Input((12, 3), name="steps")
    normalized = layers.BatchNormalization(name="bn")(inputs)
    model = keras.Model(inputs, [layers.ReLU(name="relu")(normalized), normalized])
    x = images(16, (12, 3))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=x)
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, target=target, samples=x, verbose=False)
    assert report.mismatches == 0
    assert report.comparison.flip_rate == 0.0 or target == "tflm"
