"""Times Dense layers in LiteRT with int8, INT4 and INT2 weights, and counts their bytes.

    python benchmarks/dense_storage.py

One layer, not trained, on one thread of XNNPACK. Medians of interleaved repeats.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import statistics
import time

import numpy as np
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tflite_export import verify
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

OUTPUT = flags.DEFINE_string("output", "benchmarks/results/dense_storage.md", "The page.")
REPEATS = flags.DEFINE_integer("repeats", 31, "Repeats of each.")
STORAGES = ("int8", "int4", "int2")
SIZES = ((256, 256), (1024, 1024), (4096, 1024))
ROWS = (1, 16)
_GUIDE = "../../docs/guide/export.md#fewer-bits-in-dense-layers"
_SECONDS = 0.01
"""How long a repeat takes, about."""


def dense(features: int, units: int, rows: int) -> IntegerGraph:
    """A Dense layer with 2-bit weights, which all storages hold."""
    builder, rng = GraphBuilder(), np.random.default_rng(0)
    x = builder.add_input("x", (1, rows, features), QuantParams(np.float32(0.03)))
    values = rng.integers(-1, 2, (units, features)).astype(np.int8)
    scales = rng.uniform(0.001, 0.004, units).astype(np.float32)
    weight = ops.QuantizedArray(values, QuantParams(scales, 0, -1, 1, 0))
    op = ops.FullyConnected((x,), "y", weight, rng.normal(size=units), weight_bits=2)
    return builder.build((builder.add(op, QuantParams(np.float32(0.05))),))


def interpreter(data: bytes) -> Interpreter:
    """An interpreter with random codes in its input."""
    found = Interpreter(model_content=data, num_threads=1)
    found.allocate_tensors()
    (given,) = found.get_input_details()
    codes = np.random.default_rng(1).integers(-128, 128, given["shape"]).astype(np.int8)
    found.set_tensor(given["index"], codes)
    return found


def seconds(runs: Interpreter, count: int) -> float:
    """Seconds of a run, over `count` of them."""
    start = time.perf_counter()
    for _ in range(count):
        runs.invoke()
    return (time.perf_counter() - start) / count


def row(features: int, units: int, rows: int) -> str:
    """A line of the table. Each file is proven first."""
    graph, target = dense(features, units, rows), get_target("litert")
    codes = np.random.default_rng(2).integers(-128, 128, (4, rows, features)).astype(np.int8)
    files = {}
    for storage in STORAGES:
        files[storage] = write_model(emit_model(legalize(graph, target, storage)))
        verify(graph, files[storage], target, {"x": codes})
    runs = {storage: interpreter(data) for storage, data in files.items()}
    count = max(1, round(_SECONDS / seconds(runs["int8"], 3)))
    found = [[seconds(each, count) for each in runs.values()] for _ in range(REPEATS.value + 1)][1:]
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    cells = [
        f"{len(files[storage]):,} | {1e6 * median:.1f} | {median / medians[0]:.2f}"
        for storage, median in zip(STORAGES, medians, strict=True)
    ]
    return f"| {features} to {units} | {rows} | {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    version = importlib.metadata.version("ai-edge-litert")
    lines = [
        "# Dense layers in fewer bits",
        "",
        "One Dense layer in LiteRT, its weights of 2 bits stored as int8, INT4 and INT2. Each file",
        "is proven in both runtimes. Microseconds of a run on one thread of XNNPACK, medians of",
        f"{REPEATS.value} interleaved repeats, and the ratio to int8. LiteRT {version}.",
        "",
        "| layer | rows | " + " | ".join(f"{s}: bytes | µs | ratio" for s in STORAGES) + " |",
        "|---|---:|" + "---:|---:|---:|" * len(STORAGES),
        *(row(*size, rows) for size in SIZES for rows in ROWS),
        "",
        f"Ask for it with `weight_storage=` ([guide]({_GUIDE})).",
        "Command: `python benchmarks/dense_storage.py`.",
        "",
    ]
    pathlib.Path(OUTPUT.value).write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
