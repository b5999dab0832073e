"""A temporal convolutional network: causal dilated convolutions with residuals."""

import keras
import numpy as np

from tests.end_to_end.users.deployed import exported, trained

layers = keras.layers


def tcn():
    inputs = keras.Input((32, 4), name="signal")
    x = layers.Conv1D(8, 1)(inputs)
    for dilation in (1, 2, 4):
        y = layers.Conv1D(8, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        y = layers.SpatialDropout1D(0.1)(y)
        y = layers.Conv1D(8, 3, padding="causal", dilation_rate=dilation)(y)
        x = layers.Activation("relu")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="state")(x[:, -1]))


def test_the_last_step_decides(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 96)
    time = np.arange(32) * (1 + y[:, None])
    x = np.sin(0.3 * time)[..., None] + 0.2 * rng.normal(size=(96, 32, 4))
    loss = "sparse_categorical_crossentropy"
    qmodel = trained(tcn(), x.astype(np.float32), y, loss=loss)
    exported(qmodel, x.astype(np.float32), tmp_path)
