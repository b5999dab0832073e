"""Times `predict` on a file from outside, which runs in a process of its own, against one inside.

    python benchmarks/outside_files.py

Medians of interleaved repeats after the first call, which starts that process.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np
from absl import app, flags

import keras_qat
import tflite_export
from keras_qat.integer import own_files

OUTPUT = flags.DEFINE_string("output", "benchmarks/results/outside_files.md", "The page.")
REPEATS = flags.DEFINE_integer("repeats", 61, "Calls of each.")
EXAMPLES = (1, 64, 256)


def network(folder: pathlib.Path) -> pathlib.Path:
    """A residual network on images of 32 x 32 pixels, not trained, as a file."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    images = np.random.default_rng(0).uniform(size=(32, 32, 32, 3)).astype("float32")
    qmodel = keras_qat.quantize(model, calibration_data=images)
    tflite_export.export(qmodel, folder / "net.tflite", samples=images, verbose=False)
    return folder / "net.tflite"


def measured(path: pathlib.Path, examples: int) -> tuple[float, float]:
    """Median seconds of a call in another process, and in this one."""
    images = np.random.default_rng(1).uniform(size=(examples, 32, 32, 3)).astype("float32")
    own = set(own_files._DIGESTS)

    def seconds(known: set[bytes]) -> float:
        own_files._DIGESTS.clear()
        own_files._DIGESTS.update(known)
        start = time.perf_counter()
        tflite_export.predict(path, images)
        return time.perf_counter() - start

    turns: list[Callable[[], float]] = [lambda: seconds(set()), lambda: seconds(own)]
    found = [[turn() for turn in turns] for _ in range(REPEATS.value + 1)][1:]
    outside, inside = (statistics.median(column) for column in zip(*found, strict=True))
    return outside, inside


def main(_: list[str]) -> None:
    lines = [
        "# Files from outside",
        "",
        "`predict` on a file that this process has not written runs in a process of its own.",
        f"Wall time of a call, medians of {REPEATS.value} interleaved repeats, a small network:",
        "",
        "| images | in another process | in this one | ratio |",
        "|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = network(pathlib.Path(folder))
        for examples in EXAMPLES:
            outside, inside = measured(path, examples)
            cells = f"{1000 * outside:.1f} ms | {1000 * inside:.1f} ms | {outside / inside:.2f}"
            lines.append(f"| {examples} | {cells} |")
    lines += ["", "```sh", "python benchmarks/outside_files.py", "```", ""]
    pathlib.Path(OUTPUT.value).write_text("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
