"""Compares files with other LiteRT: older versions, and another processor.

    python benchmarks/targets.py --python=/opt/litert-1.4/bin/python \
        --arm64="$(python -m tests.arm64.emulated)"

Each `--python` starts a Python that has LiteRT on this processor, and `--arm64` one on arm64. Files
run there on random codes, and every layer is compared with the integer graph.
"""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
from typing import Any

import keras
import numpy as np
import resnet8
from absl import app, flags

import keras_qat
from keras_qat.integer import IntegerGraph, run
from tflite_export import OtherRuntime
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.proof.verification import verify_runtime
from tflite_export.targets import get_target

OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/targets.json", "The figures; the page lies beside it."
)
PYTHON = flags.DEFINE_multi_string("python", [], "Command of a Python with LiteRT.")
ARM64 = flags.DEFINE_string("arm64", None, "Command of a Python with LiteRT on arm64.")
SAMPLES = flags.DEFINE_integer("samples", 32, "Examples for each network.")
SEED = 0


def mobile_network() -> keras.Model:
    """MobileNetV2 of 96 x 96 pixels, a third of its width, with random weights."""
    return keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None, classes=10)


def gated_network() -> keras.Model:
    """Squeeze-and-excite blocks: products, means and tables, with a softmax behind."""
    inputs = x = keras.Input((32, 32, 3), name="image")
    for filters in (16, 32, 48):
        x = keras.layers.Conv2D(filters, 3, 2, "same", activation="silu")(x)
        gate = keras.layers.GlobalAveragePooling2D()(x)
        gate = keras.layers.Dense(filters // 4, activation="relu")(gate)
        gate = keras.layers.Dense(filters, activation="sigmoid")(gate)
        x = keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, filters))(gate)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


NETWORKS = {
    "ResNet-8 W8A8": (resnet8.float_model, 8),
    "ResNet-8 W4A4": (resnet8.float_model, 4),
    "MobileNetV2 W8A8": (mobile_network, 8),
    "squeeze-and-excite W8A8": (gated_network, 8),
}


def graph_of(make: Any, bits: int) -> IntegerGraph:
    """A calibrated network as LiteRT's file states it."""
    keras.utils.set_random_seed(SEED)
    model = make()
    rng = np.random.default_rng(SEED)
    images = rng.uniform(size=(64, *model.input_shape[1:])).astype("float32")
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    return keras_qat.quantize(model, config, calibration_data=images).to_integer()


def random_codes(graph: IntegerGraph) -> dict[str, Any]:
    """Codes of every input, on all of int8."""
    rng = np.random.default_rng(SEED)
    shapes = {name: graph.tensors[name].shape[1:] for name in graph.inputs}
    return {
        name: rng.integers(-128, 128, (SAMPLES.value, *shape)).astype(np.int8)
        for name, shape in shapes.items()
    }


def row(graph: IntegerGraph, other: OtherRuntime) -> dict[str, int]:
    """How many elements of all layers differ from the interpreter."""
    stored = legalize(graph, get_target("litert"))
    file, legal = emit_model(stored), stored.graph
    codes = random_codes(legal)
    found = verify_runtime(legal, write_model(file), file, other.profile, codes, other)
    return {"differing": found.differing, "elements": found.elements}


def between_processors(graph: IntegerGraph) -> dict[str, int]:
    """How many elements the interpreter computes otherwise as arm64, end to end."""
    legal = legalize(graph, get_target("litert")).graph
    codes = random_codes(legal)
    one, two = (run(legal, codes, each, True) for each in ("xnnpack-x86", "xnnpack-arm64"))
    return {
        "differing": sum(int(np.count_nonzero(one[name] != two[name])) for name in one),
        "elements": sum(each.size for each in one.values()),
    }


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "# Files in other runtimes and on other processors",
        "",
        f"Elements of all layers that differ from the integer graph, on {found['samples']} inputs",
        "of random codes. Networks are calibrated on random images and not trained: integers are",
        "compared, not answers. The Cortex-A53 is emulated; no silicon was measured.",
        "",
        "| runtime | profile | " + " | ".join(NETWORKS) + " |",
        "|---|---|" + "---:|" * len(NETWORKS),
    ]
    for each in found["runtimes"]:
        cells = [f"{r['differing']:,} of {r['elements']:,}" for r in each["networks"].values()]
        lines.append(f"| {each['runtime']} | `{each['profile']}` | {' | '.join(cells)} |")
    cells = [f"{r['differing']:,}" for r in found["between"].values()]
    lines += [
        f"| the integer graph as arm64, against x86-64 | | {' | '.join(cells)} |",
        "",
        "A runtime whose row is not 0 rounds otherwise than any profile states, and",
        "`export(runtimes=)` refuses it by name. On microcontrollers:",
        "[inference as TFLite Micro](inference_of_tflm.md).",
        "",
        "```sh",
        "python benchmarks/targets.py --python=OTHER/bin/python "
        '--arm64="$(python -m tests.arm64.emulated)"',
        "```",
    ]
    return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
    graphs = {name: graph_of(*made) for name, made in NETWORKS.items()}
    others = [OtherRuntime(shlex.split(each)) for each in PYTHON.value]
    others.append(OtherRuntime(sys.executable, compiled_model=True))
    if ARM64.value:
        others.append(OtherRuntime(shlex.split(ARM64.value), "xnnpack-arm64"))
    found: dict[str, Any] = {"samples": SAMPLES.value, "seed": SEED, "runtimes": []}
    for other in others:
        networks = {name: row(graph, other) for name, graph in graphs.items()}
        print(other.said(), networks)
        each = {"runtime": other.said(), "profile": other.profile, "networks": networks}
        found["runtimes"].append(each)
    found["between"] = {name: between_processors(graph) for name, graph in graphs.items()}
    output = pathlib.Path(OUTPUT.value)
    output.write_text(json.dumps(found, indent=2) + "\n")
    output.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    app.run(main)
