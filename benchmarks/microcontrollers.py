"""Measures flash, RAM and exactness in TensorFlow Lite Micro, for every storage of weights.

    python benchmarks/microcontrollers.py --output_dir=benchmarks/results/microcontrollers

It trains ResNet-8 (from its float model) and a depthwise-separable net (float first) briefly with
LSQ on CIFAR-10, and writes each as int8, int4 and lookup tables. Every file is proven: each tensor
of TensorFlow Lite Micro is compared with the integer reference. The benchmark shows bytes and
mismatches. The accuracies come from a short training.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import resnet8
from absl import app, flags

import keras_qat
import tflite_export

EPOCHS = flags.DEFINE_integer("epochs", 1, "Epochs of quantization-aware training.", 0)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 2, "Epochs of the separable float net.", 1)
SAMPLES = flags.DEFINE_integer("samples", 64, "Validation images that the proofs run.", 1)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "microcontrollers_output", "Where results go.")

STORAGES = ("int8", "int4", "lut", "auto")
COLUMNS = {
    "network": "network",
    "storage": "storage",
    "file_bytes": "file",
    "gzip_bytes": "gzip of int8",
    "floor_bytes": "weights x bits / 8",
    "arena_bytes": "arena, estimated",
    "measured_arena_bytes": "arena, measured",
    "mismatches": "mismatches",
    "elements": "compared",
    "flip_rate": "flips",
    "argmax_agreement": "same answer",
}


def separable_model() -> keras.Model:
    """Depthwise-separable blocks on CIFAR-10, trained for a few epochs."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    for filters, strides in ((32, 1), (64, 2), (64, 1), (128, 2)):
        x = keras.layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.Conv2D(filters, 1, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches, steps = resnet8.training_batches(0), resnet8.TASK.steps()
    model.fit(batches, epochs=FLOAT_EPOCHS.value, steps_per_epoch=steps, verbose=2)
    return model


@dataclasses.dataclass(frozen=True)
class Network:
    """One network and its bit widths."""

    name: str
    float_model: Callable[[], keras.Model]
    weight_bits: int
    activation_bits: int

    @property
    def title(self) -> str:
        return f"{self.name} W{self.weight_bits}A{self.activation_bits}"


NETWORKS = (
    Network("ResNet-8", resnet8.float_model, 2, 4),
    Network("ResNet-8", resnet8.float_model, 4, 8),
    Network("separable", separable_model, 3, 8),
)


def trained(network: Network) -> keras_qat.QuantizedModel:
    """The network after a short quantization-aware training."""
    config = keras_qat.LSQConfig(
        weight_bits=network.weight_bits, activation_bits=network.activation_bits
    )
    images, _ = resnet8.images("train")
    calibration = images[: resnet8.CALIBRATION_IMAGES]
    qmodel = keras_qat.quantize(network.float_model(), config, calibration_data=calibration)
    if EPOCHS.value:
        batches, steps = resnet8.training_batches(0), resnet8.TASK.steps()
        rate = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS.value * steps)
        qmodel.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        qmodel.fit(batches, epochs=EPOCHS.value, steps_per_epoch=steps, verbose=2)
    return qmodel


def measure(network: Network, folder: pathlib.Path) -> list[dict[str, Any]]:
    """One row for each storage."""
    qmodel = trained(network)
    samples, _ = resnet8.images("validation")
    rows = []
    for storage in STORAGES:
        path = folder / f"{network.title.lower().replace(' ', '_')}_{storage}.tflite"
        report = tflite_export.export(
            qmodel,
            path,
            target="tflm",
            weight_storage=storage,
            compact=True,
            samples=samples[: SAMPLES.value],
            max_flip_rate=1.0,
            min_argmax_agreement=0.0,
            verbose=False,
        )
        plan = tflite_export.plan_memory(qmodel, storage)
        if storage == "int8":
            gzip_bytes = len(gzip.compress(path.read_bytes(), mtime=0))
        if storage == "auto":
            name = f"{network.title.lower().replace(' ', '_')}_memory.png"
            tflite_export.plot_memory(plan, folder / name)
        rows.append(
            {
                "network": network.title,
                "storage": storage,
                "file_bytes": report.file_bytes,
                "gzip_bytes": gzip_bytes,
                "floor_bytes": plan.floor_bytes,
                "arena_bytes": plan.arena_bytes,
                "measured_arena_bytes": plan.measured_arena_bytes,
                "mismatches": report.mismatches,
                "elements": report.compared_elements,
                "flip_rate": report.comparison.flip_rate,
                "argmax_agreement": report.comparison.argmax_agreement,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{100 * value:.2f} %"
        return f"{value:,}" if isinstance(value, int) else str(value)

    lines = [list(COLUMNS.values()), ["---"] * 2 + ["---:"] * (len(COLUMNS) - 2)]
    lines += [[cell(row[column]) for column in COLUMNS] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for network in NETWORKS:
        keras.utils.set_random_seed(0)
        rows += measure(network, folder)
        print(table(rows), flush=True)
    (folder / "rows.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
