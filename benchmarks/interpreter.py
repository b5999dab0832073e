"""Times the NumPy interpreter of integer graphs and the runtimes whose rounding it computes.

    python benchmarks/interpreter.py

Each engine has one thread. In every turn all engines run once, and the table has the median CPU
time. A proof of n examples takes about n times the table's time for an image. The times of LiteRT
and TFLM include loading the file.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from training_step_worker import Plain, mobilenet, resnet

import keras_qat
import tflite_export
from keras_qat import integer
from tflite_export.file.runtimes import run_litert, run_tflm
from tflite_export.file.writer import read_model

IMAGES = flags.DEFINE_integer("images", 16, "Images in a batch.", 1)
TURNS = flags.DEFINE_integer("turns", 5, "Turns of each engine; the median counts.", 1)


def engines(graph: integer.IntegerGraph, codes: np.ndarray) -> dict[str, Callable[[], object]]:
    """Functions that run the graph on these integers, by the name of the engine."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.tflite")
        tflite_export.export(graph, path, verify=False, verbose=False)
        with open(path, "rb") as file:
            data = file.read()
    model, inputs = read_model(data), {graph.inputs[0]: codes}
    named = dict.fromkeys(model.inputs, codes)
    return {
        "NumPy, profile tflm": lambda: integer.run(graph, inputs, "tflm"),
        "NumPy, profile xnnpack": lambda: integer.run(graph, inputs, "xnnpack"),
        "LiteRT, reference kernels": lambda: run_litert(data, model, named, reference=True),
        "LiteRT, XNNPACK": lambda: run_litert(data, model, named, reference=False),
        "TensorFlow Lite Micro": lambda: run_tflm(data, model, named),
    }


def main(argv: list[str]) -> None:
    generator = np.random.default_rng(0)
    print("| network | engine | a batch | an image |\n|---|---|---:|---:|")
    for name, build in (
        ("ResNet-8, 32x32", lambda: resnet(Plain(keras), 1)),
        ("MobileNetV1 0.25, 96x96", lambda: mobilenet(Plain(keras))),
    ):
        keras.utils.set_random_seed(0)
        model = build()
        images = generator.random((IMAGES.value, *model.input_shape[1:]), dtype=np.float32)
        graph = keras_qat.quantize(model, calibration_data=images).to_integer()
        codes = generator.integers(-128, 128, images.shape, dtype=np.int8)
        seconds: dict[str, list[float]] = {}
        runs = engines(graph, codes)
        for _ in range(TURNS.value):
            for engine, run in runs.items():
                start = time.process_time()
                run()
                seconds.setdefault(engine, []).append(time.process_time() - start)
        for engine, values in seconds.items():
            batch = 1000 * statistics.median(values)
            print(f"| {name} | {engine} | {batch:.0f} ms | {batch / IMAGES.value:.1f} ms |")


if __name__ == "__main__":
    app.run(main)
