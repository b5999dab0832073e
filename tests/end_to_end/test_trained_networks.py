"""Trained networks on real images: quantized without further training, and exported.

A small ResNet on handwritten digits is trained here. ResNet-8 of MLPerf Tiny and ResNet-20 of the
GDNSQ authors, both for CIFAR-10, are read from a folder `shared` beside the repository.
"""

import pathlib
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat import integer
from keras_qat.quantization.passes.to_layers import to_layers
from tests.digits import digits, trained_network
from tests.models import images
from tests.seams import op_differences

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
RESNET8 = SHARED / "models" / "resnet8_cifar10.keras"
RESNET20 = SHARED / "models" / "resnet20_cifar10_ops.keras"
RECORDS = SHARED / "data" / "tfds" / "cifar10" / "3.0.2" / "cifar10-test.tfrecord-00000-of-00001"
COUNT = 500


def needs(*paths):
    missing = [path.name for path in paths if not path.exists()]
    reason = f"needs {' and '.join(missing)} in a folder 'shared' beside the repository"
    return pytest.mark.skipif(bool(missing), reason=reason)


class Network(NamedTuple):
    """A float model, test images (float32, 0 to 255), and how many integer ops it becomes."""

    model: keras.Model
    pixels: np.ndarray
    op_count: int


def digits_network(request) -> Network:
    return Network(request.getfixturevalue("digits_model"), digits()[1].pixels, 10)


def resnet8(request) -> Network:
    features = {"image": tf.io.FixedLenFeature([], tf.string)}

    def decode(record):
        return tf.io.decode_png(tf.io.parse_single_example(record, features)["image"])

    pixels = tf.data.TFRecordDataset(str(RECORDS)).take(COUNT).map(decode).as_numpy_iterator()
    model = keras.models.load_model(RESNET8, compile=False)
    return Network(model, np.stack(list(pixels)).astype(np.float32), 15)


@pytest.fixture(scope="module")
def digits_model():
    return trained_network()


on_cifar10 = pytest.param(resnet8, marks=[pytest.mark.slow, needs(RESNET8, RECORDS)], id="resnet8")


@pytest.fixture(scope="module", params=[pytest.param(digits_network, id="digits"), on_cifar10])
def network(request):
    return request.param(request)


WIDTHS = [pytest.param(8, id="w8a8"), pytest.param(4, id="w4a4", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=WIDTHS)
def qmodel(request, network):
    config = keras_qat.LSQConfig(weight_bits=request.param, activation_bits=request.param)
    return keras_qat.quantize(network.model, config, calibration_data=network.pixels[:128])


@pytest.fixture(scope="module")
def codes(qmodel, network):
    return qmodel.layer_codes(network.pixels)


def test_the_file_is_the_integer_graph_and_nearly_the_model(qmodel, network, tmp_path):
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=network.pixels[:64], verbose=False)
    assert report.mismatches == 0
    winners = tflite_export.predict(path, network.pixels).argmax(axis=-1)
    expected = qmodel.predict(network.pixels, verbose=0).argmax(axis=-1)
    # Two equal largest probabilities may change places by one flip: at most one image in 1,000.
    assert np.mean(winners == expected) >= 0.999


def test_each_op_is_within_one_step_of_keras(qmodel, codes, network):
    graph = integer.add_headroom(qmodel.to_integer())
    found = op_differences(graph, {name: values[:128] for name, values in codes.items()})
    assert len(found) == network.op_count
    assert max(difference.largest for difference in found) <= 1, found
    # Keras' float32 sums against exact ones: values within about 1e-6 steps of a tie.
    tied = [d for d in found if "softmax" not in d.name]
    assert max(d.flip_rate for d in tied) < 1e-4, found


def test_images_are_read_as_they_are(qmodel, codes, network):
    """Bytes 0 to 255 are on the input grid: nothing is lost."""
    (name,) = qmodel.to_integer().inputs
    grid = qmodel.to_integer().tensors[name].qparams
    assert float(grid.scale) == 1.0
    np.testing.assert_array_equal(grid.dequantize(codes[name]), network.pixels)


def test_raw_shortcuts_of_a_trained_network_become_layers(digits_model):
    plain = to_layers(digits_model)
    assert all(isinstance(each, keras.layers.Layer) for each in plain.operations)
    pixels, labels = digits()[1]
    found = plain.predict(pixels, verbose=0)
    # On a busy machine TensorFlow may split a sum in float32 among its threads in another way.
    np.testing.assert_allclose(found, digits_model.predict(pixels, verbose=0), rtol=1e-4, atol=1e-6)
    assert np.mean(found.argmax(axis=-1) == labels) > 0.95


def test_eight_bits_keep_the_accuracy_of_a_trained_network(digits_model, tmp_path):
    (pixels, _), (unseen, labels) = digits()
    qmodel = keras_qat.quantize(digits_model, calibration_data=pixels[:128])
    tflite_export.export(qmodel, tmp_path / "net.tflite", samples=unseen[:64], verbose=False)
    winners = tflite_export.predict(tmp_path / "net.tflite", unseen).argmax(axis=-1)
    in_float = digits_model.predict(unseen, verbose=0).argmax(axis=-1)
    # Five of the 500 images, 1 %, may change sides.
    assert np.mean(winners == labels) >= np.mean(in_float == labels) - 0.01


@pytest.mark.slow
@needs(RESNET20)
def test_resnet20_with_raw_shortcuts_deploys(tmp_path):
    model = keras.models.load_model(RESNET20, compile=False)
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    x = images(16, (32, 32, 3))
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
