"""Times networks of many layers in a row: quantize, a step of training, export and proof.

    python benchmarks/depth.py --layers=100,300,900,1000
    python benchmarks/depth.py --layers= --compiled=25,100,200

Each depth runs in a process of its own. Each time is processor time of all threads, so that
other work on the machine does not count. The step of training runs op by op
(`run_eagerly=True`): TensorFlow optimizes a graph of a thousand layers for longer than that. How
long is a table of its own, beside a network of as many Keras layers that quantizes nothing.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

LAYERS = flags.DEFINE_list("layers", ["100", "300", "900", "1000"], "Depths.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results/depth.md", "The page.")
COMPILED = flags.DEFINE_list("compiled", [], "Depths whose first step of training is compiled.")
OF_FIRST_STEP = flags.DEFINE_bool("of_first_step", False, "Whether --alone times that step.")
ALONE = flags.DEFINE_integer("alone", None, "Times one depth and prints it as JSON.")

STEPS = ("quantize", "train a step", "export for LiteRT", "export for TFLite Micro")
_UNITS = 4
_COMPILED_HEADING = "## The first compiled step"


def times(depth: int) -> dict[str, float]:
    """Seconds of the processor of every step, for Dense layers with ReLU."""
    import keras
    import numpy as np

    import keras_qat
    import tflite_export

    limit = sys.getrecursionlimit()
    draws = np.random.default_rng(0)
    inputs = x = keras.Input((_UNITS,))
    for _ in range(depth):
        x = keras.layers.Dense(_UNITS, activation="relu", bias_initializer="ones")(x)
    sys.setrecursionlimit(60_000)  # for Keras, which fails at about 1,000 layers by default
    model = keras.Model(inputs, x)
    sys.setrecursionlimit(limit)
    for layer in model.layers[1:]:  # so that values neither vanish nor grow
        layer.kernel.assign(0.5 * np.eye(_UNITS)[draws.permutation(_UNITS)])
    data = draws.normal(size=(8, _UNITS)).astype(np.float32)
    found = {}

    def timed(step: str, run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        value = run(*arguments, **options)
        found[step] = time.process_time() - start
        return value

    quantized = timed("quantize", keras_qat.quantize, model, calibration_data=data)
    quantized.compile("sgd", "mse", run_eagerly=True)
    timed("train a step", quantized.train_on_batch, data, np.ones_like(data))
    with tempfile.TemporaryDirectory() as folder:
        for step, target in zip(STEPS[2:], ("litert", "tflm"), strict=True):
            path = pathlib.Path(folder) / "net.tflite"
            options = {"target": target, "samples": data, "verbose": False}
            timed(step, tflite_export.export, quantized, path, **options)
    if sys.getrecursionlimit() != limit:
        raise RuntimeError("the limit of calls is not what it was")
    return found


def times_of_first_step(depth: int) -> dict[str, float]:
    """Seconds of the processor of the first compiled step, quantized and in plain Keras layers.

    A quantized layer is three layers of Keras: the product, the ReLU and the grid. The plain
    network has three in their place: Dense, Activation and Rescaling.
    """
    import keras
    import numpy as np

    import keras_qat

    sys.setrecursionlimit(60_000)
    data = np.random.default_rng(0).normal(size=(8, _UNITS)).astype(np.float32)
    inputs = x = plain = keras.Input((_UNITS,))
    for _ in range(depth):
        x = keras.layers.Dense(_UNITS, activation="relu", bias_initializer="ones")(x)
        plain = keras.layers.Activation("relu")(keras.layers.Dense(_UNITS)(plain))
        plain = keras.layers.Rescaling(1.0)(plain)
    float_model = keras.Model(inputs, x)
    for layer in float_model.layers[1:]:
        layer.kernel.assign(0.5 * np.eye(_UNITS))
    models = {
        "plain Keras": keras.Model(inputs, plain),
        "quantized": keras_qat.quantize(float_model, calibration_data=data),
    }
    found = {}
    for name, model in models.items():
        model.compile("sgd", "mse", jit_compile=False)
        start = time.process_time()
        model.train_on_batch(data, np.ones_like(data))
        found[name] = time.process_time() - start
    return found


def page_of_first_step(rows: dict[int, dict[str, float]]) -> str:
    """The table of the first compiled step."""
    first = min(rows)
    lines = [
        _COMPILED_HEADING,
        "",
        f"`python benchmarks/depth.py --layers= --compiled={','.join(map(str, rows))}`: the first "
        "call of `train_on_batch` without `run_eagerly`, in which TensorFlow builds and optimizes "
        f"the graph. Milliseconds of the processor for each layer, and how many times that is of "
        f"the time at {first} layers. Plain Keras has Dense, Activation and Rescaling where a "
        "quantized network has the product, the ReLU and the grid. What a quantized layer takes "
        "more is its graph: scales, rounding and their gradients.",
        "",
        "| layers | plain Keras | quantized | quantized / plain |",
        "|---|---:|---:|---:|",
    ]
    for depth, row in rows.items():
        cells = [
            f"{1000 * seconds / depth:.0f} ({seconds / depth / rows[first][name] * first:.2f})"
            for name, seconds in row.items()
        ]
        ratio = row["quantized"] / row["plain Keras"]
        lines.append(f"| {depth:,} | {' | '.join(cells)} | {ratio:.1f} |")
    return "\n".join(lines) + "\n"


def page(rows: dict[int, dict[str, float]]) -> str:
    """The table, with times for each layer."""
    first = min(rows)
    lines = [
        "# Networks of many layers in a row",
        "",
        f"`python benchmarks/depth.py --layers={','.join(map(str, rows))}`: Dense layers of "
        f"{_UNITS} units with ReLU. Milliseconds of the processor for each layer, and in brackets "
        f"how many times that is of the time at {first} layers.",
        "",
        "| layers | " + " | ".join((*STEPS, "together")) + " |",
        "|---|" + "---:|" * (len(STEPS) + 1),
    ]
    whole = {depth: {**row, "together": sum(row.values())} for depth, row in rows.items()}
    for depth, row in whole.items():
        cells = []
        for step, seconds in row.items():
            each, before = seconds / depth, whole[first][step] / first
            cells.append(f"{1000 * each:.0f} ({each / before:.2f})")
        lines.append(f"| {depth:,} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Keras walks a graph one call inside another and fails at about 1,000 layers with Python's "
        "default limit. Its own walks run under a higher limit, which is restored. The step of "
        "training runs op by op (`run_eagerly=True`).",
    ]
    return "\n".join(lines) + "\n"


def measured(depth: int, *options: str) -> dict[str, float]:
    """What a process of its own measures at a depth."""
    command = [sys.executable, __file__, f"--alone={depth}", *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{depth} layers: {ran.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    print(depth, found, flush=True)
    return found


def main(_: list[str]) -> None:
    """Times every depth, and writes the page."""
    if ALONE.value is not None:
        time_one = times_of_first_step if OF_FIRST_STEP.value else times
        print(json.dumps(time_one(ALONE.value)))
        return
    rows: dict[int, dict[str, float]] = {}
    place = pathlib.Path(OUTPUT.value)
    for depth in map(int, filter(None, LAYERS.value)):
        rows[depth] = measured(depth)
        _, heading, other = place.read_text().partition(f"\n{_COMPILED_HEADING}")
        place.write_text(page(rows) + heading + other)
    rows = {}
    for depth in map(int, COMPILED.value):
        rows[depth] = measured(depth, "--of_first_step")
        before, _, _ = place.read_text().partition(f"\n{_COMPILED_HEADING}")
        place.write_text(f"{before.rstrip()}\n\n{page_of_first_step(rows)}")


if __name__ == "__main__":
    app.run(main)
