"""Quantizes, trains, exports and proves networks of `keras.applications`, and times each step.

    python benchmarks/applications.py --output_dir=benchmarks/results/applications

Every network starts from random weights on random images, so accuracies mean nothing here. The
benchmark shows layers without a rule, mismatches, seconds and memory. The BatchNormalization
statistics of an untrained network do not fit its signals, which then vanish or explode. `settle`
gives the network the statistics of its own signals first, as every trained network has them.

Seconds are CPU time over all threads, which a busy machine does not change. The JSON also
has the elapsed time. "export" is the integer graph and its file. "proof" is an export with all its
comparisons: the Keras model, LiteRT's reference kernels and XNNPACK.

Every network runs in its own process, so that its peak memory is its own. A finished network is a
JSON file in --output_dir and is not run again. `--report_only` writes the table from these files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_qat
import tflite_export

WEIGHT_BITS = flags.DEFINE_integer("weight_bits", 8, "Bits of weights.", 1, 8)
ACTIVATION_BITS = flags.DEFINE_integer("activation_bits", 8, "Bits of activations.", 1, 8)
IMAGES = flags.DEFINE_integer("images", 16, "Images to calibrate with and to train one step on.", 2)
SAMPLES = flags.DEFINE_integer("samples", 2, "Images that the proofs run.", 1)
ONLY = flags.DEFINE_multi_string("network", None, "Which networks; all by default.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "applications_output", "Where results go.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing: write the table.")
HERE = flags.DEFINE_string("here", None, "Run this one network in this process.")

CLASSES = 1000
SETTLING_PASSES = 10
SETTLING_MOMENTUM = 0.5
COLUMNS = {
    "network": "network",
    "size": "image",
    "weights": "weights",
    "file_bytes": "file",
    "mismatches": "mismatches",
    "elements": "compared",
    "flip_rate": "flips",
    "argmax_agreement": "same answer",
    "quantize_seconds": "quantize",
    "step_seconds": "first step",
    "export_seconds": "export",
    "proof_seconds": "proof",
    "peak_megabytes": "memory",
}
UNITS = {"seconds": " s", "megabytes": " MB"}


@dataclasses.dataclass(frozen=True)
class Network:
    """One network, the side of its square images, and the range of their values."""

    name: str
    size: int
    span: tuple[float, float] = (-1.0, 1.0)

    def build(self) -> keras.Model:
        shape = (self.size, self.size, 3)
        return getattr(keras.applications, self.name)(weights=None, input_shape=shape)


PIXELS = (0.0, 255.0)  # for networks that preprocess images themselves
NETWORKS = (
    Network("MobileNet", 64),
    Network("MobileNetV2", 64),
    Network("MobileNetV3Small", 64, PIXELS),
    Network("EfficientNetB0", 64, PIXELS),
    Network("DenseNet121", 64),
    Network("NASNetMobile", 64),
    Network("ResNet50V2", 64),
    Network("ConvNeXtTiny", 64, PIXELS),
)


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Gives every BatchNormalization the statistics of these images."""
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = SETTLING_MOMENTUM
    for _ in range(SETTLING_PASSES):
        model(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


@contextlib.contextmanager
def timed(row: dict[str, Any], step: str) -> Iterator[None]:
    """Writes the seconds of a step to `row`, or the name of the step if it fails."""
    row["failed_in"] = step
    elapsed, processor = time.perf_counter(), time.process_time()
    yield
    row[f"{step}_elapsed"] = round(time.perf_counter() - elapsed, 2)
    row[f"{step}_seconds"] = round(time.process_time() - processor, 2)
    del row["failed_in"]


def measure(network: Network, row: dict[str, Any], path: pathlib.Path) -> None:
    """Quantizes, trains, exports and proves one network, and writes the results to `row`."""
    keras.utils.set_random_seed(0)
    model = network.build()
    generator = np.random.default_rng(0)
    shape = (IMAGES.value, network.size, network.size, 3)
    images = generator.uniform(*network.span, shape).astype("float32")
    labels = generator.integers(0, CLASSES, IMAGES.value)
    row["weights"] = model.count_params()
    settle(model, images)
    config = keras_qat.LSQConfig(
        weight_bits=WEIGHT_BITS.value, activation_bits=ACTIVATION_BITS.value
    )
    with timed(row, "quantize"):
        qmodel = keras_qat.quantize(model, config, calibration_data=images)
    with timed(row, "step"):
        qmodel.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        qmodel.fit(images, labels, batch_size=IMAGES.value, verbose=0)
    samples = images[: SAMPLES.value]
    limits = {"max_flip_rate": 1.0, "min_argmax_agreement": 0.0}  # recorded, not required
    with timed(row, "export"):
        tflite_export.export(qmodel.to_integer(), path, verify=False, verbose=False)
    with timed(row, "proof"):
        samples = images[: SAMPLES.value]
        report = tflite_export.export(qmodel, path, samples=samples, verbose=False, **limits)
    row["file_bytes"] = report.file_bytes
    row["flip_rate"] = report.comparison.flip_rate
    row["argmax_agreement"] = report.comparison.argmax_agreement
    row["runtimes"] = [proof.runtime for proof in report.verifications]
    row["mismatches"] = report.mismatches
    row["elements"] = report.compared_elements


def run_here(network: Network, folder: pathlib.Path) -> None:
    """Runs one network in this process and writes its result, an error included."""
    row = {
        "network": network.name,
        "size": network.size,
        "weight_bits": WEIGHT_BITS.value,
        "activation_bits": ACTIVATION_BITS.value,
    }
    path = folder / f"{network.name}.tflite"
    try:
        measure(network, row, path)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
    finally:
        path.unlink(missing_ok=True)
    row["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result(network, folder).write_text(json.dumps(row, indent=2) + "\n")


def result(network: Network, folder: pathlib.Path) -> pathlib.Path:
    """The file with the results of a network."""
    return folder / f"{network.name}_w{WEIGHT_BITS.value}a{ACTIVATION_BITS.value}.json"


def start(network: Network) -> None:
    """Runs one network in its own process."""
    code = subprocess.run([sys.executable, *sys.argv, f"--here={network.name}"]).returncode
    print(f"{network.name}: " + ("done" if code == 0 else f"failed with exit code {code}"))


def cell(column: str, value: Any) -> str:
    """One number as text, with its unit."""
    if isinstance(value, float) and column.endswith("seconds"):
        return f"{value:.1f} s"
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    unit = UNITS.get(column.rpartition("_")[2], "")
    return f"{value:,}{unit}" if isinstance(value, int) else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, and below it every error."""
    lines = [list(COLUMNS.values()), ["---"] + ["---:"] * (len(COLUMNS) - 1)]
    lines += [[cell(column, row.get(column, "")) for column in COLUMNS] for row in rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    for row in rows:
        if "error" in row:
            words = " ".join(row["error"].split())[:600]
            step = row.get("failed_in", "build")
            text += f"\n{row['network']} stops in {step}: `{words}`\n"
    return text


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    by_name = {network.name: network for network in NETWORKS}
    unknown = set(ONLY.value or ()) - set(by_name)
    if unknown:
        raise app.UsageError(f"No networks {sorted(unknown)}; there are {list(by_name)}")
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    if HERE.value:
        run_here(by_name[HERE.value], folder)
        return
    chosen = [by_name[name] for name in ONLY.value or by_name]
    for network in chosen:
        if not REPORT_ONLY.value and not result(network, folder).exists():
            start(network)
    finished = [result(network, folder) for network in chosen if result(network, folder).exists()]
    print(table([json.loads(path.read_text()) for path in finished]), end="")


if __name__ == "__main__":
    app.run(main)
