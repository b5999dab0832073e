"""Draws capacity and accuracy while GDNSQ narrows a small network, at 4, 2 and 1 bits.

    python benchmarks/capacity_pictures.py

A residual network learns scikit-learn's handwritten digits in float, and then with learned bit
widths: one run and one picture for each width, in --output_dir. A run takes about a minute. Inputs,
outputs, and the weights of the first and the last layer keep 8 bits.
"""

from __future__ import annotations

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits

import keras_qat
from keras_qat.callbacks import BatchNormReestimation, CapacityMonitor, GDNSQSchedule

layers = keras.layers

BITS = flags.DEFINE_multi_integer("bits", [4, 2, 1], "Bits of weights and activations.")
EPOCHS = flags.DEFINE_integer("epochs", 24, "Epochs with learned bit widths.", 1)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "benchmarks/results/capacity", "For the pictures.")

BATCH = 32
VALIDATION = 500
SAMPLES = 256

Images = tuple[np.ndarray, np.ndarray]


def digits() -> tuple[Images, Images]:
    """1,297 images of 8x8 pixels from 0 to 1 to train on, and 500 others."""
    data = load_digits()
    pixels = (data.images[..., None] / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(pixels))
    train, rest = order[VALIDATION:], order[:VALIDATION]
    return (pixels[train], data.target[train]), (pixels[rest], data.target[rest])


def _unit(x, filters: int, name: str, strides: int = 1):
    x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def network() -> keras.Model:
    """A residual block, two convolutions with stride 2, and a head on 32 features."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = shortcut = layers.ReLU(name="stem")(_unit(inputs, 8, "stem_conv"))
    x = layers.ReLU(name="inner")(_unit(x, 8, "inner_conv"))
    x = layers.Add(name="add")([_unit(x, 8, "outer_conv"), shortcut])
    x = layers.ReLU(name="block")(x)
    x = layers.ReLU(name="small")(_unit(x, 16, "small_conv", strides=2))
    x = layers.ReLU(name="features")(_unit(x, 8, "features_conv", strides=2))
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="answer")(x))


def trained_in_float(train: Images, validation: Images) -> keras.Model:
    """The float network from which every run starts."""
    keras.utils.set_random_seed(0)
    model = network()
    epochs = 12
    rate = keras.optimizers.schedules.CosineDecay(0.02, epochs * -(-len(train[0]) // BATCH))
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(*train, batch_size=BATCH, epochs=epochs, verbose=0)
    print(f"float: {100.0 * model.evaluate(*validation, verbose=0)[1]:.1f} %")
    return model


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    train, validation = digits()
    model = trained_in_float(train, validation)
    for bits in BITS.value:
        keras.utils.set_random_seed(0)
        config = keras_qat.GDNSQConfig(weight_bits=bits, activation_bits=bits, add_bits=bits)
        qmodel = keras_qat.quantize(model, config, calibration_data=train[0][:SAMPLES])
        qmodel.compile(
            keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        monitor = CapacityMonitor(train[0][:SAMPLES])
        history = qmodel.fit(
            *train,
            validation_data=validation,
            batch_size=BATCH,
            epochs=EPOCHS.value,
            verbose=0,
            callbacks=[GDNSQSchedule(), BatchNormReestimation(train[0]), monitor],
        )
        path = folder / f"w{bits}a{bits}.png"
        keras_qat.plot_capacity_dynamics(monitor, history, path)
        print(f"{path}: {100.0 * history.history['val_accuracy'][-1]:.1f} %")


if __name__ == "__main__":
    app.run(main)
