"""Studies: many trainings of ResNet-8 on CIFAR-10, all from one float model with one budget.

A study is a dict of variants. Every run trains in a process of its own, with one thread, and goes
on in the middle if it was killed; what is finished is not done again. A finished run is a JSON
file in --output_dir, next to its trained .keras and its .tflite; `--report_only` writes the table
and the picture from what is there.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import resnet8
import study_report
import tensorflow as tf
from absl import app, flags, logging

import keras_qat
import tflite_export
from keras_qat.callbacks import BatchNormReestimation, GDNSQSchedule, PEGESchedule

REESTIMATION_BATCHES = 40

BITS = flags.DEFINE_multi_integer("bits", [2, 1, 3, 4], "Bits of weights and activations.")
VARIANTS_FLAG = flags.DEFINE_multi_string("variant", None, "Which variants; all by default.")
SEEDS = flags.DEFINE_multi_integer("seed", [0, 1, 2], "Random seeds; one run for each.")
EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of each run.", 1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's full learning rate.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", pathlib.Path(sys.argv[0]).stem + "_output", "Where results go."
)
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, each with one thread.", 1)
REESTIMATE = flags.DEFINE_bool(
    "reestimate", False, "Set BatchNormalization's statistics anew before every validation."
)
TEST = flags.DEFINE_bool("test", True, "Evaluate on the test set; off while constants are sought.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Train nothing: table and picture.")
ONLY = flags.DEFINE_string("only", None, "Do this one run, here; what --jobs starts.")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        config: bits -> what `quantize` is given.
        distills: from the float model, by the Jeffreys divergence; else labels only.
        curriculum: options of `PEGESchedule`, where elements are replaced progressively.
    """

    config: Callable[[int], keras_qat.QuantizationConfig]
    distills: bool = False
    curriculum: dict[str, Any] = dataclasses.field(default_factory=dict)


Variants = dict[str, Variant]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: a variant, its bits and a seed."""

    variant: str
    bits: int
    seed: int

    @property
    def name(self) -> str:
        return f"w{self.bits}a{self.bits}_{self.variant}_seed{self.seed}"

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(OUTPUT_DIR.value)

    @property
    def result(self) -> pathlib.Path:
        return self.folder / f"{self.name}.json"


def all_runs(variants: Variants) -> list[Run]:
    """Those of the flags: every variant and width for one seed, then the next seed."""
    names = VARIANTS_FLAG.value or list(variants)
    combinations = itertools.product(SEEDS.value, BITS.value, names)
    return [Run(name, bits, seed) for seed, bits, name in combinations]


def train(run: Run, variant: Variant) -> tuple[keras_qat.QuantizedModel, dict]:
    """Trains one model, or goes on with it; returns it and what its logs say."""
    keras.utils.set_random_seed(run.seed)
    train_images, _ = resnet8.images("train")
    qmodel = keras_qat.quantize(
        resnet8.float_model(),
        variant.config(run.bits),
        calibration_data=train_images[: resnet8.CALIBRATION_IMAGES],
    )
    if variant.distills:
        qmodel.distill_from()
    batches = resnet8.training_batches(run.seed)
    history = run.folder / f"{run.name}.csv"
    callbacks = [
        keras.callbacks.BackupAndRestore(str(run.folder / f"{run.name}.backup")),
        keras.callbacks.CSVLogger(str(history), append=True),
    ]
    if REESTIMATE.value:
        sample = resnet8.training_batches(run.seed).take(REESTIMATION_BATCHES)
        callbacks.insert(0, BatchNormReestimation(sample))
    rate = LEARNING_RATE.value
    schedule = GDNSQSchedule()
    if qmodel.replaced_quantizers:
        callbacks.insert(0, PEGESchedule(**variant.curriculum))
    if qmodel.learned_widths:
        callbacks.insert(0, schedule)
    else:
        rate = keras.optimizers.schedules.CosineDecay(rate, EPOCHS.value * len(batches))
    qmodel.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    fitted = qmodel.fit(
        batches,
        epochs=EPOCHS.value,
        validation_data=resnet8.images("validation"),
        validation_batch_size=500,
        shuffle=False,  # the dataset shuffles itself
        verbose=2,
        callbacks=callbacks,
    )
    logs = {name: values[-1] for name, values in fitted.history.items()}
    if qmodel.learned_widths:
        logs["targets_met_at"] = schedule.targets_met_at or 0
    return qmodel, logs


def evaluate(run: Run, qmodel: keras_qat.QuantizedModel) -> dict:
    """Accuracy on the test set, of the model and of its file if it deploys."""
    test_images, labels = resnet8.images("test")
    outputs = qmodel.predict(test_images, batch_size=500, verbose=0)
    found = {"qat_accuracy": resnet8.accuracy(outputs, labels)}
    if not all(quantizer.deployable for quantizer in qmodel.quantizers):
        return found
    path = run.folder / f"{run.name}.tflite"
    samples = resnet8.images("validation")[0][:256]
    # A file below export's own limit is a result too: the table says how many answers it keeps.
    report = tflite_export.export(qmodel, path, samples=samples, min_argmax_agreement=0.9)
    report.save_json(path.with_suffix(".report.json"))
    file_outputs = tflite_export.predict(path, test_images)
    same = np.argmax(outputs, axis=-1) == np.argmax(file_outputs, axis=-1)
    return {
        **found,
        "tflite_accuracy": resnet8.accuracy(file_outputs, labels),
        "argmax_agreement": 100.0 * float(np.mean(same)),
        "file_bytes": path.stat().st_size,
    }


def execute(run: Run, variant: Variant) -> None:
    """Trains and evaluates one run, and writes its result at once."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    start = time.time()
    qmodel, logs = train(run, variant)
    result = {
        **dataclasses.asdict(run),
        "epochs": EPOCHS.value,
        "learning_rate": LEARNING_RATE.value,
        "batch_size": resnet8.BATCH_SIZE.value,
        "reestimated": REESTIMATE.value,
        "batches": EPOCHS.value * len(resnet8.training_batches(run.seed)),
        "seconds": round(time.time() - start),
        "logs": {name: float(value) for name, value in logs.items()},
    }
    qmodel.save(run.folder / f"{run.name}.keras")
    if TEST.value:
        result |= evaluate(run, qmodel)
    partial = run.result.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.rename(run.result)


def start(run: Run) -> str:
    """Does one run in its own process; returns a line on how it ended."""
    log = run.folder / f"{run.name}.log"
    command = [sys.executable, *sys.argv, f"--only={run.variant},{run.bits},{run.seed}"]
    with log.open("a") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    return f"{run.name}: " + ("done" if code == 0 else f"failed with exit code {code}, see {log}")


def report(folder: pathlib.Path, variants: Variants) -> None:
    """Prints the table of what is finished; of tests, also draws it next to the folder."""
    cells = study_report.load_runs(folder, TEST.value)
    if not cells:
        print(f"No finished runs in {folder} yet.")
        return
    if not TEST.value:
        print(study_report.validation_table(cells), end="")
        return
    test_images, labels = resnet8.images("test")
    outputs = resnet8.float_model().predict(test_images, batch_size=500, verbose=0)
    float_accuracy = resnet8.accuracy(outputs, labels)
    print(study_report.table(cells, list(variants), float_accuracy), end="")
    picture = folder.with_suffix(".png")
    study_report.plot(cells, list(variants), float_accuracy, picture)
    print(f"Picture: {picture}")


def run(variants: Variants) -> None:
    """The command line of a study."""
    app.run(functools.partial(_main, variants))


def _main(variants: Variants, argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    unknown = set(VARIANTS_FLAG.value or ()) - set(variants)
    if unknown:
        raise app.UsageError(f"No variants {sorted(unknown)}; there are {list(variants)}")
    logging.set_verbosity(logging.WARNING)
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    if ONLY.value:
        name, bits, seed = ONLY.value.split(",")
        execute(Run(name, int(bits), int(seed)), variants[name])
        return
    missing = [run for run in all_runs(variants) if not run.result.exists()]
    if REPORT_ONLY.value:
        missing = []
    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
        for line in pool.map(start, missing):
            print(line, flush=True)
    report(folder, variants)
