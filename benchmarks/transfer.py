"""Transfer learning with a frozen base, here and with TFMOT, from the same float models.

    python benchmarks/transfer.py

A base in the manner of MobileNetV2 learns the handwritten digits 0 to 4. It is frozen, and a new
head learns 5 to 9. From this float model both libraries train on their grids of 8 bits, with the
same calls: class weights, EarlyStopping, ReduceLROnPlateau. The table goes to
benchmarks/results/transfer.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from transfer_task import BATCH, EPOCHS, Digits, digits, features, train

import keras_qat
import tflite_export

SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.", 1)
OUTPUT = flags.DEFINE_string("output", "benchmarks/results/transfer.md", "The page of the table.")
HERE = pathlib.Path(__file__).parent
layers = keras.layers
KINDS = ("float", "theirs", "their_file", "ours", "our_file")
PAGE = """# Transfer with a frozen base

Written by `benchmarks/transfer.py`. Accuracy in % of {images} handwritten digits from 5 to 9. The
base, in the manner of MobileNetV2, learned 0 to 4 and is frozen. Both libraries start from the
float model of the seed and train up to {epochs} epochs at 8 bits with the same calls.

| seed | float | TFMOT | its file | keras_qat | its file |
|---|---:|---:|---:|---:|---:|
{rows}

One image is {image:.1f} points. The callbacks choose the epoch by these images, in both libraries
alike.

```sh
python benchmarks/transfer.py
```
"""


def float_model(seed: int, old: Digits, new: Digits, test: Digits) -> Any:
    """The base within a model, with a head that knows the new classes."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((8, 8, 1), name="pixels")
    base = keras.Model(pixels, features(layers, pixels), name="base")

    def with_head() -> Any:
        inputs = keras.Input((8, 8, 1), name="image")
        x = layers.Rescaling(1 / 16, name="rescaling")(inputs)
        x = base(x) if base.trainable else base(x, training=False)
        x = layers.Flatten(name="flatten")(x)
        return keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x))

    learner = with_head()
    learner.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    learner.fit(*old, batch_size=BATCH, epochs=15, verbose=0)
    base.trainable = False
    model = with_head()
    train(keras, model, new, test, epochs=20, rate=3e-3)
    return model


def by_tfmot(model: Any, seed: int, folder: pathlib.Path) -> tuple[float, float]:
    """The accuracies of TFMOT's model and file, from a process with Keras 2."""
    stored = {
        f"{layer.name}/{number}": weight
        for layer in [*model.get_layer("base").layers[1:], *model.layers[3:]]
        for number, weight in enumerate(layer.get_weights())
    }
    np.savez(folder / "weights.npz", **stored)
    command = [sys.executable, HERE / "transfer_by_tfmot.py", folder / "weights.npz", str(seed)]
    old = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=old).stdout
    (line,) = (each for each in said.splitlines() if each.startswith("accuracy"))
    in_keras, of_file = map(float, line.split()[1:])
    return in_keras, of_file


def run(seed: int) -> dict[str, float]:
    """The accuracies of one seed."""
    old, new, test = digits()
    model = float_model(seed, old, new, test)
    qmodel = keras_qat.quantize(model, calibration_data=new.x)
    train(keras, qmodel, new, test)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        theirs, their_file = by_tfmot(model, seed, folder)
        report = tflite_export.export(
            qmodel, folder / "net.tflite", samples=tuple(test), verbose=False
        )
    return {
        "float": 100 * model.evaluate(*test, verbose=0)[1],
        "theirs": theirs,
        "their_file": their_file,
        "ours": 100 * qmodel.evaluate(*test, verbose=0)[1],
        "our_file": 100 * report.worth.of_file,
    }


def render(runs: list[dict[str, float]]) -> str:
    """The page."""
    images = len(digits()[2].y)
    rows = [[str(seed), *(f"{each[kind]:.1f}" for kind in KINDS)] for seed, each in enumerate(runs)]
    means = [f"{statistics.mean(each[kind] for each in runs):.1f}" for kind in KINDS]
    rows.append(["mean", *means])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return PAGE.format(images=images, image=100 / images, epochs=EPOCHS, rows=lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    path = pathlib.Path(OUTPUT.value)
    runs = [run(seed) for seed in range(SEEDS.value)]
    path.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
    path.write_text(render(runs))


if __name__ == "__main__":
    app.run(main)
