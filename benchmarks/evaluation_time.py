"""Measures what evaluation costs in the arithmetic of TensorFlow Lite Micro.

    KERAS_BACKEND=tensorflow python benchmarks/evaluation_time.py
    KERAS_BACKEND=jax python benchmarks/evaluation_time.py

Two copies of each network, one that infers as LiteRT and one as TFLite Micro, evaluate the same
batches in turns. A row is the ratio of their medians. The figures go to the JSON file of
`benchmarks/inference_of_tflm.py`, which also draws the page.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import resnet8
from absl import app, flags

import keras_qat

OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/inference_of_tflm.json", "Where the figures go."
)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Repeats of each measurement.")
BATCH = 256


def mobilenet() -> keras.Model:
    """MobileNetV2 on images of 96 by 96, untrained: time does not depend on weights."""
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.5, weights=None, classes=10)


NETWORKS: dict[str, tuple[Callable[[], keras.Model], int, int]] = {
    "ResNet-8 W4A4": (resnet8.float_model, 4, 512),
    "MobileNetV2 W8A8": (mobilenet, 8, 256),
}
"""The network, its bits, and how many images are evaluated."""


def measured(build: Callable[[], keras.Model], bits: int, count: int) -> dict[str, Any]:
    """Medians of wall and CPU seconds of both, and their ratios."""
    model = build()
    x = np.random.default_rng(0).random((count, *model.inputs[0].shape[1:]), np.float32)
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    litert = keras_qat.quantize(model, config, calibration_data=x[:64])
    tflm = keras.models.clone_model(litert)
    tflm.set_weights(litert.get_weights())
    tflm.compute_as("tflm")
    times: dict[str, list[tuple[float, float]]] = {"litert": [], "tflm": []}
    for each in (litert, tflm):
        each.compile(loss="sparse_categorical_crossentropy")
    for repeat in range(ROUNDS.value + 1):  # the first one compiles
        for name, each in (("litert", litert), ("tflm", tflm)):
            wall, cpu = time.perf_counter(), time.process_time()
            each.evaluate(x, np.zeros(count, int), batch_size=BATCH, verbose=0)
            took = time.perf_counter() - wall, time.process_time() - cpu
            times[name] += [took] if repeat else []
    wall, cpu = np.median(times["tflm"], axis=0) / np.median(times["litert"], axis=0)
    seconds = {
        name: [round(float(s), 3) for s in np.median(t, axis=0)] for name, t in times.items()
    }
    return {"wall": round(float(wall), 2), "cpu": round(float(cpu), 2), "seconds": seconds}


def main(_: Any) -> None:
    """Measures every network on the backend of this process."""
    path = pathlib.Path(OUTPUT.value)
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = found.setdefault("evaluation", {}).setdefault(keras.backend.backend(), {})
    for name, network in NETWORKS.items():
        rows[name] = measured(*network)
        print(keras.backend.backend(), name, rows[name], flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
