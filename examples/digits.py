"""What the small examples share: scikit-learn's digits, a float network, and how it trains."""

import pathlib

import keras
import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule

layers = keras.layers

Split = tuple[np.ndarray, np.ndarray]


def load(seed: int) -> dict[str, Split]:
    """1,797 handwritten digits, 8x8 gray pixels from 0 to 16: 60 % train, 20 % each the others."""
    digits = datasets.load_digits()
    images = digits.images[..., None].astype(np.float32)
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, digits.target, test_size=0.4, random_state=seed, stratify=digits.target
    )
    validation_x, test_x, validation_y, test_y = train_test_split(
        rest_x, rest_y, test_size=0.5, random_state=seed, stratify=rest_y
    )
    return {
        "train": (train_x, train_y),
        "validation": (validation_x, validation_y),
        "test": (test_x, test_y),
    }


def build_model(splits: dict[str, Split]) -> keras.Model:
    """A network with a residual Add, a depthwise-separable block and a softmax head."""
    images, labels = splits["train"]
    inputs = keras.Input(images.shape[1:], name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    shortcut = x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="residual")(x)
    x = layers.BatchNormalization(name="residual_bn")(x)
    x = layers.Add(name="add")([shortcut, x])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.SeparableConv2D(32, 3, strides=2, padding="same", use_bias=False, name="sep")(x)
    x = layers.BatchNormalization(name="sep_bn")(x)
    x = layers.ReLU(name="sep_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(int(labels.max()) + 1, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs, name="digits")


def train(
    model: keras.Model,
    splits: dict[str, Split],
    epochs: int,
    learning_rate: float,
    *callbacks: keras.callbacks.Callback,
) -> keras.callbacks.History:
    """Trains with Adam, and prints a line per epoch.

    The rate falls to 0 along half a cosine, unless `GDNSQSchedule` schedules it.
    """
    images, labels = splits["train"]
    batch_size = 32 if len(images) < 10_000 else 128
    rate = learning_rate
    if not any(isinstance(each, GDNSQSchedule) for each in callbacks):
        steps = epochs * -(-len(images) // batch_size)
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model.fit(
        images,
        labels,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=splits["validation"],
        verbose=2,
        callbacks=list(callbacks),
    )


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(outputs, axis=-1) == labels))


def print_accuracies(
    model: keras.Model,
    qmodel: keras_qat.QuantizedModel,
    path: pathlib.Path,
    splits: dict[str, Split],
    method: str,
) -> None:
    """Prints the test accuracy of the float model, the quantized model and its file."""
    images, labels = splits["test"]
    outputs = {
        "float model": model.predict(images, verbose=0),
        method: qmodel.predict(images, verbose=0),
        "its file in LiteRT": tflite_export.predict(path, images),
    }
    for name, values in outputs.items():
        print(f"{name:20} {accuracy(values, labels):6.2f} % of {len(labels)} test images")
