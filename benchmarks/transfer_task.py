"""A transfer to new classes, in the manner of MobileNetV2, for Keras 2 and for Keras 3.

The base has learned the digits 0 to 4 and is frozen. A new head learns 5 to 9.
"""

from typing import Any, NamedTuple

import numpy as np

EPOCHS = 8
BATCH = 32
CLASS_WEIGHT = {0: 1.0, 1: 1.5, 2: 1.0, 3: 1.0, 4: 1.0}


class Digits(NamedTuple):
    """Pixels from 0 to 16, and classes from 0 to 4."""

    x: np.ndarray
    y: np.ndarray


def digits() -> tuple[Digits, Digits, Digits]:
    """The digits 0 to 4; two thirds of the digits 5 to 9, and the last third of them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = data.images[..., None].astype(np.float32), data.target
    old, new = Digits(x[y < 5], y[y < 5]), Digits(x[y >= 5], y[y >= 5] - 5)
    split = 2 * len(new.y) // 3
    return old, Digits(new.x[:split], new.y[:split]), Digits(new.x[split:], new.y[split:])


def _norm(layers: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=0.9, name=name)


def _block(layers: Any, x: Any, name: str) -> Any:
    """An inverted residual."""
    channels = x.shape[-1]
    y = layers.Conv2D(4 * channels, 1, use_bias=False, name=f"{name}_expand")(x)
    y = layers.ReLU(6.0, name=f"{name}_relu")(_norm(layers, f"{name}_bn")(y))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise")(y)
    y = layers.ReLU(6.0, name=f"{name}_relu_2")(_norm(layers, f"{name}_bn_2")(y))
    y = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(y)
    return layers.Add(name=f"{name}_add")([x, _norm(layers, f"{name}_bn_3")(y)])


def features(layers: Any, x: Any) -> Any:
    """The features that the base computes from images, whose pixels lie from 0 to 1."""
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(6.0, name="stem_relu")(_norm(layers, "stem_bn")(x))
    x = _block(layers, x, "block_1")
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="down")(x)
    x = layers.ReLU(6.0, name="down_relu")(_norm(layers, "down_bn")(x))
    return _block(layers, x, "block_2")


def train(
    keras: Any, model: Any, data: Digits, test: Digits, epochs: int = EPOCHS, rate: float = 1e-3
) -> Any:
    """The same call in both worlds; the history."""
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=4, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=2),
    ]
    return model.fit(
        *data,
        batch_size=BATCH,
        epochs=epochs,
        validation_data=tuple(test),
        class_weight=CLASS_WEIGHT,
        callbacks=callbacks,
        verbose=0,
    )
