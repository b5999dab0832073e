"""Real images that come with scikit-learn, and a residual network trained on them in moments."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

layers = keras.layers
TRAINED_ON = 1297
BATCH = 32


class Images(NamedTuple):
    """Pixels as bytes, 0 to 255 in float32, and labels."""

    pixels: np.ndarray
    labels: np.ndarray


def digits() -> tuple[Images, Images]:
    """1,297 handwritten digits of 8x8 pixels to train on, and 500 others."""
    data = load_digits()
    pixels = np.floor(data.images[..., None] * (255 / 16)).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(pixels))
    first, rest = order[:TRAINED_ON], order[TRAINED_ON:]
    return Images(pixels[first], data.target[first]), Images(pixels[rest], data.target[rest])


def _unit(x, filters: int, name: str, strides: int = 1):
    x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def trained_network() -> keras.Model:
    """A small ResNet whose second shortcut is raw operations, as in ResNet-20 of CIFAR-10."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    x = shortcut = layers.ReLU(name="stem_relu")(_unit(x, 8, "stem"))
    x = layers.ReLU(name="first_relu")(_unit(x, 8, "first"))
    x = layers.Add(name="first_add")([_unit(x, 8, "second"), shortcut])
    x = layers.ReLU(name="second_relu")(x)
    shortcut = ops.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (4, 4)))
    x = layers.ReLU(name="third_relu")(_unit(x, 16, "third", strides=2))
    x = layers.Add(name="second_add")([_unit(x, 16, "fourth"), shortcut])
    x = layers.ReLU(name="fourth_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="head")(x))
    epochs, steps = 10, -(-TRAINED_ON // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(0.02, epochs * steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(*digits()[0], batch_size=BATCH, epochs=epochs, verbose=0)
    return model
