"""Transfer learning with a frozen base, here and with TFMOT, from the same float models.

    python benchmarks/transfer.py

A base in the manner of MobileNetV2 learns the handwritten digits 0 to 4. It is frozen, and a new
head learns 5 to 9. From this float model both libraries train on their grids of 8 bits, with the
same calls: class weights, EarlyStopping, ReduceLROnPlateau. TFMOT trains a frozen base, so each
library runs with its base held and free. The table goes to benchmarks/results/transfer.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from transfer_task import BATCH, EPOCHS, Digits, digits, features, train

import keras_qat
import tflite_export

HERE = pathlib.Path(__file__).parent
layers = keras.layers
KINDS = {
    "their_free": "TFMOT",
    "their_free_file": "its file",
    "their_held": "TFMOT, base held",
    "their_held_file": "its file",
    "our_held": "keras_qat",
    "our_held_file": "its file",
    "our_free": "keras_qat, base free",
}
"""What is compared, and the head of its column."""
PAGE = """# Transfer with a frozen base

Written by `benchmarks/transfer.py`. Accuracy in % of {images} handwritten digits from 5 to 9. The
base, in the manner of MobileNetV2, learned 0 to 4 and is frozen. Both libraries start from the
float model of the seed and train up to {epochs} epochs at 8 bits with the same calls. Means over
{orders} orders of the images.

{table}

**TFMOT trains a frozen base.** The `trainable_weights` of its wrapper have the kernel whatever
`trainable` says, so all kernels of the base move. For "base held" the script empties that list by
hand. With keras_qat a frozen layer stays as it is; for "base free" the script sets it trainable.
BatchNormalization is frozen everywhere.

With the base held, keras_qat minus TFMOT is {held:+.2f} points, and with the base free {free:+.2f}.
One image is {image:.2f} points, and another order of the images alone moves a result by up to
{spread:.2f}. The callbacks choose the epoch by these images, in both libraries alike.

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


def by_tfmot(
    model: Any, orders: list[int], bases: Sequence[str], folder: pathlib.Path
) -> list[dict[str, Any]]:
    """What TFMOT reaches in each order, from a process with Keras 2."""
    stored = {
        f"{layer.name}/{number}": weight
        for layer in [*model.get_layer("base").layers[1:], *model.layers[3:]]
        for number, weight in enumerate(layer.get_weights())
    }
    np.savez(folder / "weights.npz", **stored)
    script, named = HERE / "transfer_by_tfmot.py", ",".join(map(str, orders))
    command = [sys.executable, script, folder / "weights.npz", named, *bases]
    old = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=old).stdout
    lines = (line.partition("found ")[2] for line in said.splitlines())
    return [json.loads(line) for line in lines if line]


def by_keras_qat(
    model: Any, order: int, new: Digits, test: Digits, folder: pathlib.Path, free: bool
) -> dict[str, float]:
    """The accuracies of model and file that keras_qat reaches in one order."""
    qmodel = keras_qat.quantize(model, calibration_data=new.x)
    if free:
        for layer in qmodel.layers:
            inner = getattr(layer, "layer", layer)
            layer.trainable = layer.trainable or not isinstance(inner, layers.BatchNormalization)
    keras.utils.set_random_seed(order)
    train(keras, qmodel, new, test)
    path = folder / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=tuple(test), verbose=False)
    accuracy = 100 * qmodel.evaluate(*test, verbose=0)[1]
    return {"accuracy": accuracy, "of_file": 100 * report.worth.of_file}


def run(seed: int, orders: int, bases: Sequence[str] = ("free", "held")) -> dict[str, Any]:
    """The accuracies of one float model, by kind and order."""
    old, new, test = digits()
    model = float_model(seed, old, new, test)
    found: dict[str, Any] = {"float": 100 * model.evaluate(*test, verbose=0)[1]}
    seeds = [100 * seed + order for order in range(orders)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        theirs = by_tfmot(model, seeds, bases, folder)
        for base in bases:
            here = [each for each in theirs if each["held"] == (base == "held")]
            found[f"their_{base}"] = [each["accuracy"] for each in here]
            found[f"their_{base}_file"] = [each["of_file"] for each in here]
            found[f"their_{base}_moved"] = [
                f"{each['moved']} of {each['kernels']} kernels" for each in here
            ]
            ours = [
                by_keras_qat(model, each, new, test, folder, free=base == "free") for each in seeds
            ]
            found[f"our_{base}"] = [each["accuracy"] for each in ours]
            found[f"our_{base}_file"] = [each["of_file"] for each in ours]
    return found


def mean(runs: list[dict[str, Any]], kind: str) -> float:
    """Over all seeds and orders."""
    return statistics.mean(value for each in runs for value in each[kind])


def render(runs: list[dict[str, Any]]) -> str:
    """The page."""
    rows = [
        [str(seed), f"{each['float']:.1f}", *(f"{mean([each], kind):.1f}" for kind in KINDS)]
        for seed, each in enumerate(runs)
    ]
    floats = statistics.mean(each["float"] for each in runs)
    rows.append(["mean", f"{floats:.1f}", *(f"{mean(runs, kind):.1f}" for kind in KINDS)])
    lines = [["seed", "float", *KINDS.values()], ["---", *["---:"] * (1 + len(KINDS))], *rows]
    spread = max(max(each[kind]) - min(each[kind]) for each in runs for kind in KINDS)
    images = len(digits()[2].y)
    return PAGE.format(
        images=images,
        epochs=EPOCHS,
        orders=len(runs[0]["our_held"]),
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        held=mean(runs, "our_held") - mean(runs, "their_held"),
        free=mean(runs, "our_free") - mean(runs, "their_free"),
        image=100 / images,
        spread=spread,
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    path = pathlib.Path(flags.FLAGS.output)
    runs = []
    for seed in range(flags.FLAGS.seeds):
        runs.append(run(seed, flags.FLAGS.orders))
        path.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
        path.write_text(render(runs))


if __name__ == "__main__":  # a test imports this module beside others, with flags of these names
    flags.DEFINE_integer("seeds", 3, "How many float models.", 1)
    flags.DEFINE_integer("orders", 3, "How many orders of the images for each of them.", 1)
    flags.DEFINE_string("output", "benchmarks/results/transfer.md", "The page of the table.")
    app.run(main)
