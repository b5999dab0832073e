"""Accuracy before and after from_tfmot, in our file and in TFMOT's file, for three networks.

    TF_USE_LEGACY_KERAS=1 python benchmarks/tfmot.py

ResNet-8 starts from the float model of the other studies and is trained by TFMOT for a few steps on
CIFAR-10. A separable and a Dense network learn the digits of scikit-learn. All figures are accuracy
on 1,000 images that were not trained on. It needs the extra `tfmot`.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import peers_resnet8
import resnet8
import tensorflow_model_optimization as tfmot
import tf_keras
from absl import app, flags
from cifar10 import accuracy
from sklearn.datasets import load_digits

import keras_qat
import tflite_export

STEPS = flags.DEFINE_integer("steps", 60, "Batches of TFMOT's training of ResNet-8.", 1)
RESULT = flags.DEFINE_string("result", "benchmarks/results/tfmot.json", "JSON file to write.")

_EXAMPLES = 1000
_SEED = 0
layers = tf_keras.layers


def digits() -> tuple[Any, Any]:
    """Images (N, 8, 8, 1) and labels of training, and the same of 1,000 others."""
    data = load_digits()
    x, y = data.images[..., None].astype(np.float32), data.target
    order = np.random.default_rng(_SEED).permutation(len(x))
    test, train = order[:_EXAMPLES], order[_EXAMPLES:]
    return (x[train], y[train]), (x[test], y[test])


def trained(model: Any, x: Any, y: Any, epochs: int, rate: float) -> Any:
    """The model after a training with Adam."""
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return model


def on_digits(*stack: Any) -> tuple[Any, Any, Any]:
    """Float model, TFMOT's model and test images of a network that learned the digits."""
    train, test = digits()
    inputs = tf_keras.Input((8, 8, 1), name="image")
    x = inputs
    for layer in stack:
        x = layer(x)
    outputs = layers.Dense(10, activation="softmax", name="classes")(x)
    model = trained(tf_keras.Model(inputs, outputs), *train, epochs=30, rate=3e-3)
    qmodel = tfmot.quantization.keras.quantize_model(model)
    return model, trained(qmodel, *train, epochs=10, rate=1e-3), test


def separable() -> tuple[Any, Any, Any]:
    """A convolution and two separable ones."""
    return on_digits(
        layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem"),
        layers.BatchNormalization(name="stem_bn"),
        layers.ReLU(name="stem_relu"),
        layers.SeparableConv2D(32, 3, activation="relu", name="first"),
        layers.SeparableConv2D(32, 3, activation="relu", name="second"),
        layers.GlobalAveragePooling2D(name="pool"),
    )


def dense() -> tuple[Any, Any, Any]:
    """Two hidden layers."""
    return on_digits(
        layers.Flatten(name="flatten"),
        layers.Dense(64, activation="relu", name="first"),
        layers.Dense(32, activation="relu", name="second"),
    )


def residual() -> tuple[Any, Any, Any]:
    """ResNet-8 on CIFAR-10."""
    model = peers_resnet8.network(tf_keras)
    peers_resnet8.copy_weights(resnet8.float_model(), model)
    qmodel = tfmot.quantization.keras.quantize_model(model)
    qmodel.compile(tf_keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    qmodel.fit(resnet8.training_batches(_SEED), steps_per_epoch=STEPS.value, verbose=0)
    images, labels = resnet8.images("test")
    return model, qmodel, (images[:_EXAMPLES], labels[:_EXAMPLES])


NETWORKS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "dense": dense,
    "separable": separable,
    "resnet8": residual,
}


def row(name: str) -> dict[str, Any]:
    """The accuracies of one network, in percent."""
    tf_keras.utils.set_random_seed(_SEED)
    model, theirs, (x, y) = NETWORKS[name]()
    ours = keras_qat.from_tfmot(theirs)
    with tempfile.TemporaryDirectory() as folder:
        own, other = (pathlib.Path(folder) / f"{each}.tflite" for each in ("ours", "theirs"))
        report = tflite_export.export(ours, own, samples=x[:128], verbose=False)
        other.write_bytes(peers_resnet8.converted(theirs))
        own_codes, other_codes = (
            peers_resnet8.predicted(path, x, batch=_EXAMPLES) for path in (own, other)
        )
        sizes = own.stat().st_size, other.stat().st_size
    return {
        "float": accuracy(model.predict(x, verbose=0), y),
        "tfmot_keras": accuracy(theirs.predict(x, verbose=0), y),
        "from_tfmot_keras": accuracy(ours.predict(x, verbose=0), y),
        "our_file": accuracy(own_codes, y),
        "tfmot_file": accuracy(other_codes, y),
        "same_answers": 100.0 * float(np.mean(own_codes.argmax(-1) == other_codes.argmax(-1))),
        "mismatches": report.mismatches,
        "our_bytes": sizes[0],
        "tfmot_bytes": sizes[1],
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    path = pathlib.Path(RESULT.value)
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in NETWORKS:
        if name not in found:
            found[name] = row(name)
            path.write_text(json.dumps(found, indent=2) + "\n")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    app.run(main)
