"""A siamese network: one encoder called twice, and a distance."""

import keras
import numpy as np
from keras import ops

from tests.end_to_end.users.deployed import exported, trained

layers = keras.layers


def siamese():
    image = keras.Input((12, 12, 1))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    encoder = keras.Model(image, layers.Dense(6, name="embedding")(x), name="encoder")
    left, right = keras.Input((12, 12, 1), name="left"), keras.Input((12, 12, 1), name="right")
    apart = ops.square(encoder(left) - encoder(right))
    same = layers.Dense(1, activation="sigmoid", name="same")(apart)
    return keras.Model({"left": left, "right": right}, same)


def test_inputs_go_by_name(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 64)
    left = rng.normal(size=(64, 12, 12, 1)).astype(np.float32)
    right = np.where(y[:, None, None, None] > 0, left, left[::-1])
    x = {"left": left, "right": right + 0.1 * rng.normal(size=left.shape).astype(np.float32)}
    qmodel = trained(siamese(), x, y, loss="binary_crossentropy")
    assert qmodel.output_names == ["same"]
    for report in exported(qmodel, x, tmp_path).values():
        (same,) = report.comparison.outputs
        assert (same.kind, same.threshold) == ("scores", 0.5)
