"""What one weight scale for a Dense layer saves in TensorFlow Lite Micro, and what it costs.

    python benchmarks/per_tensor_dense.py

Bytes: the autoencoder of MLPerf Tiny, calibrated on random inputs and not trained. Accuracy: a
network of three Dense layers on scikit-learn's digits, each seed with weights and a split of its
own.
"""

from __future__ import annotations

import pathlib
import tempfile
import warnings
from collections.abc import Iterator

import ethos_u
import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_qat
import tflite_export

PAGE = flags.DEFINE_string("page", "benchmarks/results/per_tensor_dense.md", "The page.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of the accuracies.", 1)
_GUIDE = "../../docs/guide/microcontrollers.md#one-scale-for-a-dense-layer"
_SCALES = {False: "one for each unit", True: "one for the layer"}
layers = keras.layers


def config(bits: int, shared: bool) -> keras_qat.LSQConfig:
    """Weights of `bits` bits, and activations of 8."""
    return keras_qat.LSQConfig(weight_bits=bits, per_tensor_dense=shared)


def bytes_of_autoencoder() -> Iterator[str]:
    """Lines of the first table. Every file is proven."""
    model = ethos_u.anomaly_detection()
    x = np.random.default_rng(0).normal(size=(64, 640)).astype(np.float32)
    for bits, storage in ((8, "int8"), (4, "int8"), (4, "lut"), (2, "lut")):
        for shared, scales in _SCALES.items():
            qmodel = keras_qat.quantize(model, config(bits, shared), calibration_data=x)
            with tempfile.TemporaryDirectory() as folder:
                report = tflite_export.export(
                    qmodel,
                    pathlib.Path(folder, "model.tflite"),
                    target="tflm",
                    samples=x,
                    weight_storage=storage,
                    verbose=False,
                )
            plan = tflite_export.plan_memory(qmodel, weight_storage=storage)
            yield (
                f"| W{bits}A8 | {storage} | {scales} | {plan.flash_bytes:,} "
                f"| {plan.measured_arena_bytes:,} | {report.mismatches} |"
            )


def digits_network() -> keras.Model:
    """Three Dense layers, two of them normalized."""
    x = inputs = keras.Input((64,))
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(64)(x)))
    return keras.Model(inputs, layers.Dense(10)(x))


def accuracies(seed: int, bits: int) -> tuple[float, ...]:
    """Accuracy on held-out digits in %, with a scale for each unit and with one for the layer."""
    keras.utils.set_random_seed(seed)
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.3, random_state=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = digits_network()
    model.compile("adam", loss)
    model.fit(train_x, train_y, epochs=30, batch_size=32, verbose=0)
    found = []
    for shared in _SCALES:
        keras.utils.set_random_seed(seed)
        qmodel = keras_qat.quantize(model, config(bits, shared), calibration_data=train_x)
        qmodel.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        qmodel.fit(train_x, train_y, epochs=20, batch_size=32, verbose=0)
        found.append(100.0 * qmodel.evaluate(test_x, test_y, verbose=0)[1])
    return tuple(found)


def lines_of_accuracy() -> Iterator[str]:
    """Lines of the second table."""
    for bits in (8, 4, 2):
        found = np.array([accuracies(seed, bits) for seed in range(SEEDS.value)])
        spread = found.std(axis=0, ddof=1 if len(found) > 1 else 0)
        cells = (f"{m:.2f} ± {s:.2f}" for m, s in zip(found.mean(axis=0), spread, strict=True))
        yield f"| W{bits}A8 | {' | '.join(cells)} |"


def _main(arguments: list[str]) -> None:
    warnings.simplefilter("ignore")
    bytes_table, accuracy_table = list(bytes_of_autoencoder()), list(lines_of_accuracy())
    page = [
        "# One weight scale for a Dense layer",
        "",
        "The autoencoder of MLPerf Tiny, ten Dense layers and nine normalizations, in",
        "TensorFlow Lite Micro: bytes of the file and of the measured arena. Tables need 22,000",
        "bytes of code besides. Not trained, calibrated on random inputs. MLPerf Tiny's own file",
        "has an arena of 3,984 bytes.",
        "",
        "| bits | storage | weight scales | file | arena | mismatches |",
        "|---|---|---|---:|---:|---:|",
        *bytes_table,
        "",
        f"Accuracy in % on held-out digits, {SEEDS.value} seeds, mean and standard deviation:",
        "",
        f"| bits | {' | '.join(_SCALES.values())} |",
        "|---|---:|---:|",
        *accuracy_table,
        "",
        "With one scale for the layer, the BatchNormalization is folded before training.",
        f"Ask for it with `per_tensor_dense=True` ([guide]({_GUIDE})).",
        "Command: `python benchmarks/per_tensor_dense.py`.",
        "",
    ]
    pathlib.Path(PAGE.value).write_text("\n".join(page))
    print("\n".join(page))


if __name__ == "__main__":
    app.run(_main)
