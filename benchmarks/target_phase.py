"""Whether a last phase of training in the target's arithmetic is worth anything on the device.

    python benchmarks/target_phase.py --output_dir=benchmarks/results

ResNet-8 of MLPerf Tiny trains with LSQ on CIFAR-10. Then it trains for one more epoch at a tenth of
the rate, in three ways from the same weights: as before, with the running statistics of
BatchNormalization, and with forward passes that round as TensorFlow Lite Micro does. Each is
evaluated on the test set as that runtime computes. Runs that are in the JSON file are not done
again.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import Any

import keras
import numpy as np
import resnet8
from absl import app, flags
from scipy import stats

import keras_qat

SEEDS = flags.DEFINE_multi_integer("seed", [0, 1, 2], "Seeds.")
BITS = flags.DEFINE_multi_integer("bits", [2, 4], "Bits of weights and activations.")
EPOCHS = flags.DEFINE_integer("epochs", 2, "Epochs before the last phase.", 1)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "benchmarks/results", "Where results go.")

TARGET = "tflm"
_RATE = 1e-3
WAYS = {
    "usual": "as before, and statistics re-estimated",
    "frozen": "as before, BatchNormalization frozen",
    "target": "forward passes round as on the device",
}


def trained(bits: int, seed: int) -> keras_qat.QuantizedModel:
    """ResNet-8 after the usual training, its statistics re-estimated."""
    keras.utils.set_random_seed(seed)
    images, _ = resnet8.TASK.images("train")
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    qmodel = keras_qat.quantize(
        resnet8.TASK.float_model(), config, calibration_data=images[:512], target=TARGET
    )
    fit(qmodel, seed, 0, EPOCHS.value, _RATE)
    reestimate(qmodel, seed, EPOCHS.value)
    return qmodel


def fit(qmodel: keras_qat.QuantizedModel, seed: int, first: int, epochs: int, rate: float) -> None:
    """Trains from epoch `first` of the batches on, at a rate that falls along half a cosine."""
    steps = resnet8.TASK.steps()
    falling = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    qmodel.compile(keras.optimizers.Adam(falling), resnet8.TASK.loss(), metrics=["accuracy"])
    batches = resnet8.TASK.batches(seed, first)
    qmodel.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=2, reestimate=False)


def reestimate(qmodel: keras_qat.QuantizedModel, seed: int, epoch: int) -> None:
    """Sets the statistics of BatchNormalization from 40 batches of an epoch."""
    keras_qat.reestimate_batch_normalization(qmodel, resnet8.TASK.batches(seed, epoch).take(40))


def accuracy(qmodel: keras_qat.QuantizedModel) -> float:
    """Accuracy on the test set in %, as the model infers."""
    images, labels = resnet8.TASK.images("test")
    answers = qmodel.predict(images, batch_size=500, verbose=0).argmax(axis=-1)
    return 100.0 * float(np.mean(answers == labels.ravel()))


def last_phase(qmodel: keras_qat.QuantizedModel, way: str, seed: int) -> dict[str, float]:
    """Trains on in one way. Accuracy as the device computes, and as LiteRT does."""
    qmodel.compute_as(TARGET, in_training=way == "target")
    normalizations = [
        layer for layer in qmodel.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.trainable = way != "frozen"
    fit(qmodel, seed, EPOCHS.value, 1, _RATE / 10)
    for layer in normalizations:
        layer.trainable = True
    if way == "usual":
        reestimate(qmodel, seed, EPOCHS.value + 1)
    qmodel.compute_as(TARGET)
    on_device = accuracy(qmodel)
    with qmodel.computing_as("litert"):
        return {"tflm": on_device, "litert": accuracy(qmodel)}


def run(bits: int, seed: int) -> dict[str, Any]:
    """The accuracies of one seed, before the last phase and after each way."""
    qmodel = trained(bits, seed)
    found: dict[str, Any] = {"before": accuracy(qmodel)}
    weights = qmodel.get_weights()
    for way in WAYS:
        qmodel.set_weights(weights)
        found[way] = last_phase(qmodel, way, seed)
    return found


def page(found: dict[str, dict[str, Any]]) -> str:
    """The accuracies as a page."""
    lines = [
        "# A last phase in the target's arithmetic",
        "",
        "ResNet-8 of MLPerf Tiny on CIFAR-10, LSQ, accuracy in % of the 10,000 test images as",
        "TensorFlow Lite Micro computes them. After the usual training comes one epoch at a tenth",
        "of the rate, in three ways from the same weights: with re-estimated statistics, with",
        "frozen BatchNormalization, and with forward passes in the arithmetic of the device",
        '(`compute_as("tflm", in_training=True)`). The last column compares the third with the',
        "second over the seeds: the mean, and half of its 95 % interval (Student's t).",
        "",
        "| bits | seeds | before | " + " | ".join(WAYS.values()) + " | third minus second |",
        "|---|---:|---:|" + "---:|" * (len(WAYS) + 1),
    ]
    for bits in sorted({name.split("_")[0] for name in found}):
        rows = [each for name, each in found.items() if name.startswith(f"{bits}_")]
        columns = [[each["before"] for each in rows]]
        columns += [[each[way][TARGET] for each in rows] for way in WAYS]
        cells = [f"{np.mean(each):.2f} ± {_spread(each):.2f}" for each in columns]
        gains = np.subtract(columns[-1], columns[-2])
        half = float("nan")
        if len(gains) > 1:
            half = float(stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains))
        cells.append(f"{np.mean(gains):+.2f} ± {half:.2f}")
        lines.append(f"| {bits.upper()} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "```sh", "python benchmarks/target_phase.py", "```"]) + "\n"


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _main(_: list[str]) -> None:
    folder = pathlib.Path(OUTPUT_DIR.value)
    file = folder / "target_phase.json"
    for seed, bits in itertools.product(SEEDS.value, BITS.value):
        name = f"w{bits}a{bits}_seed{seed}"
        known = json.loads(file.read_text()) if file.exists() else {}
        if name in known:
            continue
        made = run(bits, seed)
        known = json.loads(file.read_text()) if file.exists() else {}
        rows = dict(sorted({**known, name: made}.items()))
        file.write_text(json.dumps(rows, indent=2) + "\n")
    (folder / "target_phase.md").write_text(page(json.loads(file.read_text())))


if __name__ == "__main__":
    app.run(_main)
