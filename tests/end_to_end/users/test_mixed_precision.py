"""Training on grids from random weights, under the usual policy of GPUs."""

import keras
import pytest

import keras_qat
from tests.end_to_end.users.deployed import coloured_images, exported

layers = keras.layers


@pytest.fixture
def mixed_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def network():
    inputs = x = keras.Input((16, 16, 3), name="image")
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Activation("softmax", dtype="float32", name="classes")(x))


@pytest.mark.usefixtures("mixed_policy")
def test_from_random_weights_to_both_files(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = coloured_images(16)
    qmodel = keras_qat.quantize(network(), calibration_data=x)
    loss = "sparse_categorical_crossentropy"
    qmodel.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    history = qmodel.fit(x, y, epochs=4, batch_size=16, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    exported(qmodel, x, tmp_path)
