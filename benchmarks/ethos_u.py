"""Compiles MLPerf Tiny and MobileNetV3 for Ethos-U with Vela: what leaves the NPU, and its costs.

    python benchmarks/ethos_u.py

Networks are calibrated on random inputs and not trained, because a compiler looks at shapes alone.
It needs the extra `[ethosu]`.
"""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import app, flags

import keras_qat
import tflite_export

OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/ethos_u.json", "The figures; the page lies beside it."
)
ACCELERATORS = ("ethos-u55-128", "ethos-u65-256", "ethos-u85-256")
layers = keras.layers


def _normalized(x: Any, layer: keras.Layer) -> Any:
    return layers.ReLU()(layers.BatchNormalization()(layer(x)))


def keyword_spotting() -> keras.Model:
    """DS-CNN on 49 spectra of 10 bands."""
    inputs = keras.Input((49, 10, 1))
    x = _normalized(inputs, layers.Conv2D(64, (10, 4), 2, "same"))
    for _ in range(4):
        x = _normalized(x, layers.DepthwiseConv2D(3, padding="same"))
        x = _normalized(x, layers.Conv2D(64, 1))
    x = layers.Flatten()(layers.AveragePooling2D(x.shape[1:3])(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


def image_classification() -> keras.Model:
    """ResNet-8 on images of 32 x 32 pixels."""
    inputs = keras.Input((32, 32, 3))
    x = _normalized(inputs, layers.Conv2D(16, 3, padding="same"))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = _normalized(x, layers.Conv2D(filters, 3, stride, "same"))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
        short = x if stride == 1 else layers.Conv2D(filters, 1, stride, "same")(x)
        x = layers.ReLU()(layers.Add()([short, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def visual_wake_words() -> keras.Model:
    """MobileNetV1 of a quarter of its width, on images of 96 x 96 pixels."""
    return keras.applications.MobileNet((96, 96, 3), 0.25, weights=None, classes=2)


def anomaly_detection() -> keras.Model:
    """The autoencoder of ten Dense layers."""
    inputs = x = keras.Input((640,))
    for units in (*(128,) * 4, 8, *(128,) * 4):
        x = _normalized(x, layers.Dense(units))
    return keras.Model(inputs, layers.Dense(640)(x))


def with_hard_swish() -> keras.Model:
    """MobileNetV3-Small: hard_silu behind its convolutions, hard_sigmoid in its gates."""
    return keras.applications.MobileNetV3Small((96, 96, 3), weights=None, classes=10)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "keyword spotting (DS-CNN)": keyword_spotting,
    "image classification (ResNet-8)": image_classification,
    "visual wake words (MobileNetV1 0.25)": visual_wake_words,
    "anomaly detection (autoencoder)": anomaly_detection,
    "MobileNetV3-Small": with_hard_swish,
}


def rows(name: str) -> list[dict[str, Any]]:
    """A network on every accelerator."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    x = np.random.default_rng(0).uniform(size=(32, *model.input_shape[1:])).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was not trained
        qmodel = keras_qat.quantize(model, calibration_data=x, target="ethos-u")
    found = []
    for accelerator in ACCELERATORS:
        checked = tflite_export.check(qmodel, "ethos-u", accelerator=accelerator)
        leaving = [row.operator for row in checked.rows if row.fact.status != "fast"]
        found.append(
            {
                "network": name,
                "accelerator": accelerator,
                "vela": checked.rows[0].fact.source,
                "operators": len(checked.rows),
                "leaving": leaving,
                "summary": checked.summary[0],
            }
        )
    return found


def page(found: list[dict[str, Any]]) -> str:
    """The figures as a page."""
    lines = [
        "# Networks on Ethos-U",
        "",
        f'What {found[0]["vela"]} says of the files for `"ethos-u"`; cycles and memory are its',
        "estimates, and no NPU was measured. The first four networks have shapes of MLPerf Tiny.",
        "",
        "| network | NPU | operators | that leave it | Vela's estimate |",
        "|---|---|---:|---:|---|",
    ]
    for row in found:
        estimate = row["summary"].split("estimates ")[1].rstrip(".")
        cells = (
            row["network"],
            row["accelerator"],
            row["operators"],
            len(row["leaving"]),
            estimate,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", "```sh", "python benchmarks/ethos_u.py", "```"]) + "\n"


def main(_: list[str]) -> None:
    found = [row for name in NETWORKS for row in rows(name)]
    output = pathlib.Path(OUTPUT.value)
    output.write_text(json.dumps(found, indent=2) + "\n")
    output.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    app.run(main)
