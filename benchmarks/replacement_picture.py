"""Draws the curriculum of PEGE and the discretization errors of four methods, side by side.

    python benchmarks/replacement_picture.py

Network and images come from `benchmarks/capacity_pictures.py`. STE, LSQ, EWGS and PEGE
train it at W2A2 for 12 epochs each, in about a minute together.
"""

from __future__ import annotations

import pathlib

import capacity_pictures
import keras
from absl import app, flags

import keras_qat
from keras_qat.callbacks import DiscretizationMonitor, PEGESchedule

PICTURE = flags.DEFINE_string(
    "picture", "benchmarks/results/pege/replacement.png", "Where to write the picture."
)

BITS = {"weight_bits": 2, "activation_bits": 2, "add_bits": 2}
METHODS = {
    "STE": keras_qat.STEConfig(**BITS),
    "LSQ": keras_qat.LSQConfig(**BITS),
    "EWGS": keras_qat.LSQConfig(**BITS, estimator="ewgs"),
    "PEGE": keras_qat.PEGEConfig(**BITS),
}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    train, validation = capacity_pictures.digits()
    model = capacity_pictures.trained_in_float(train, validation)
    monitors = {}
    for title, config in METHODS.items():
        keras.utils.set_random_seed(0)
        qmodel = keras_qat.quantize(model, config, calibration_data=train[0][:256])
        qmodel.compile(
            keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        monitors[title] = DiscretizationMonitor(train[0][:128], every=10)
        schedules = [PEGESchedule(end=0.5)] if title == "PEGE" else []
        qmodel.fit(
            *train, batch_size=32, epochs=12, verbose=0, callbacks=[*schedules, monitors[title]]
        )
        print(f"{title}: {100.0 * qmodel.evaluate(*validation, verbose=0)[1]:.1f} %")
    path = pathlib.Path(PICTURE.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    keras_qat.plot_replacement(monitors, path)
    print(path)


if __name__ == "__main__":
    app.run(main)
