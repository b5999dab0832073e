"""MLPerf Tiny's trained ResNet-8 on CIFAR-10 images: quantized without training, and exported."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat import integer
from tests.seams import op_differences

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
MODEL = SHARED / "models" / "resnet8_cifar10.keras"
RECORDS = SHARED / "data" / "tfds" / "cifar10" / "3.0.2" / "cifar10-test.tfrecord-00000-of-00001"

pytestmark = pytest.mark.skipif(
    not (MODEL.exists() and RECORDS.exists()),
    reason="needs the trained ResNet-8 and CIFAR-10 in a folder 'shared' beside the repository",
)
COUNT = 500


@pytest.fixture(scope="module")
def pixels():
    """The first test images: float32, 0 to 255."""
    features = {"image": tf.io.FixedLenFeature([], tf.string)}

    def decode(record):
        return tf.io.decode_png(tf.io.parse_single_example(record, features)["image"])

    images = tf.data.TFRecordDataset(str(RECORDS)).take(COUNT).map(decode).as_numpy_iterator()
    return np.stack(list(images)).astype(np.float32)


@pytest.fixture(scope="module", params=[8, 4], ids=["w8a8", "w4a4"])
def qmodel(request, pixels):
    model = keras.models.load_model(MODEL, compile=False)
    config = keras_qat.LSQConfig(weight_bits=request.param, activation_bits=request.param)
    return keras_qat.quantize(model, config, calibration_data=pixels[:128])


@pytest.fixture(scope="module")
def codes(qmodel, pixels):
    return qmodel.layer_codes(pixels)


def test_the_file_is_the_integer_graph_and_nearly_the_model(qmodel, pixels, tmp_path):
    path = tmp_path / "resnet8.tflite"
    report = tflite_export.export(qmodel, path, samples=pixels[:64], verbose=False)
    assert report.mismatches == 0
    winners = tflite_export.predict(path, pixels).argmax(axis=-1)
    expected = qmodel.predict(pixels, verbose=0).argmax(axis=-1)
    # Two equal largest probabilities may change places by one flip: at most one image in 1,000.
    assert np.mean(winners == expected) >= 0.999


def test_each_op_is_within_one_step_of_keras(qmodel, codes):
    graph = integer.add_headroom(qmodel.to_integer())
    found = op_differences(graph, {name: values[:128] for name, values in codes.items()})
    assert len(found) == 15
    assert max(difference.largest for difference in found) <= 1, found
    # Keras' float32 sums against exact ones: values within about 1e-6 steps of a tie.
    assert max(d.flip_rate for d in found if d.name != "activation_softmax") < 1e-4, found


def test_images_are_read_as_they_are(qmodel, codes, pixels):
    """Bytes 0 to 255 are on the input grid: nothing is lost."""
    (name,) = qmodel.to_integer().inputs
    grid = qmodel.to_integer().tensors[name].qparams
    assert float(grid.scale) == 1.0
    np.testing.assert_array_equal(grid.dequantize(codes[name]), pixels)
