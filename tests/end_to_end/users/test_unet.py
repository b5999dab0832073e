"""A U-Net: skips by concatenation, transposed convolutions, a class for each pixel."""

import keras
import numpy as np

from tests.end_to_end.users.deployed import exported, trained

layers = keras.layers


def unet():
    def block(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.Activation("relu")(layers.BatchNormalization()(x))
        return x

    inputs = keras.Input((16, 16, 3), name="image")
    top = block(inputs, 8)
    middle = block(layers.MaxPooling2D()(top), 12)
    x = block(layers.MaxPooling2D()(middle), 16)
    for skip, filters in ((middle, 12), (top, 8)):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = block(layers.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, layers.Conv2D(3, 1, name="mask")(x))


def test_every_pixel_counts(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).uniform(size=(64, 16, 16, 3)).astype(np.float32)
    y = x.argmax(axis=-1)  # the brightest channel
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel = trained(unet(), x, y, loss=loss, metrics=["accuracy"])
    for report in exported(qmodel, x, tmp_path).values():
        (mask,) = report.comparison.outputs
        assert (mask.name, mask.kind, mask.positions) == ("mask", "scores", 64 * 16 * 16)
