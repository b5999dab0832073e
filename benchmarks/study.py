"""Studies: many trainings of one task, all from one float model.

A study is a task and a dict of variants. Every run trains in its own process. It has one thread,
or --threads. If it was killed, it goes on from its last epoch. A finished run is a JSON file in
--output_dir, next to a CSV file of its epochs, and is not done again. Its backups, its trained
.keras and its .tflite are in --state_dir. `--report_only` writes the table and the picture from
the finished runs. `benchmarks/run_queue.py` does runs of any study in the order of a list.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import resnet8
import study_report
import tensorflow as tf
from absl import app, flags, logging
from cifar10 import accuracy
from epoch_backup import EpochBackup, OutOfTimeError
from task import CALIBRATION_IMAGES, Recipe, Task

import keras_qat
import tflite_export
from keras_qat.callbacks import (
    BatchNormReestimation,
    BitWidthMonitor,
    GDNSQSchedule,
    PEGESchedule,
)
from keras_qat.integer.files import replace_file
from keras_qat.training.backup_files import sha256

REESTIMATION_BATCHES = 40
OUT_OF_TIME = 75
"""Exit code of a run that stopped between two epochs because its time was up."""
FLOAT = "float"
"""The variant that trains the float model of a study."""
_PACKAGES = ("keras", "tensorflow", "numpy", "ai-edge-litert")

BITS = flags.DEFINE_multi_integer("bits", [2, 1, 3, 4], "Bits of weights and activations.")
VARIANTS_FLAG = flags.DEFINE_multi_string("variant", None, "Which variants; all by default.")
SEEDS = flags.DEFINE_multi_integer("seed", [0, 1, 2], "Random seeds; one run for each.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of each run; the recipe's by default.", 1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Highest rate; the recipe's by default.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", pathlib.Path(sys.argv[0]).stem + "_output", "Where results go."
)
STATE_DIR = flags.DEFINE_string(
    "state_dir", None, "Where backups and trained models go; --output_dir by default."
)
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time.", 1)
THREADS = flags.DEFINE_integer("threads", 1, "Threads of each run.", 1)
REESTIMATE = flags.DEFINE_bool(
    "reestimate", False, "Re-estimate BatchNormalization's statistics before every validation."
)
TEST = flags.DEFINE_bool("test", True, "Use the test set. Turn this off while seeking constants.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Train nothing: table and picture.")
ONLY = flags.DEFINE_string("only", None, "Do this one run in this process (internal).")
STOP_AT = flags.DEFINE_float("stop_at", None, "Begin no epoch that ends after this time.time().")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        config: bits -> the config for `quantize`.
        distills: whether to learn from the float model by the Jeffreys divergence.
        label_weight: the factor of the loss on labels beside the one against the float model.
        teacher: makes another teacher than the float model (`benchmarks/teachers.py`).
        curriculum: options of `PEGESchedule`, if elements are replaced progressively.
        schedule: options of `GDNSQSchedule`, if bit widths are learned.
        recipe: changes to the recipe of the task.
    """

    config: Callable[[int], keras_qat.QuantizationConfig]
    distills: bool = False
    label_weight: float = 0.0
    teacher: Callable[[Task, Recipe, int, pathlib.Path], keras.Model] | None = None
    curriculum: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe


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
    def state_folder(self) -> pathlib.Path:
        return pathlib.Path(STATE_DIR.value or OUTPUT_DIR.value)

    @property
    def widths(self) -> pathlib.Path:
        """The file of the learned widths over the batches."""
        return self.folder / f"{self.name}.widths.json"

    @property
    def result(self) -> pathlib.Path:
        return self.folder / f"{self.name}.json"


TrainFloat = Callable[[Run], None]


def all_runs(variants: Variants) -> list[Run]:
    """The runs that the flags select: every variant and width for one seed, then the next seed."""
    names = VARIANTS_FLAG.value or list(variants)
    combinations = itertools.product(SEEDS.value, BITS.value, names)
    return [Run(name, bits, seed) for seed, bits, name in combinations]


def recipe_of(task: Task, run: Run, variant: Variant) -> Recipe:
    """The task's recipe, with the changes that the variant and flags make."""
    changes = {"epochs": EPOCHS.value, "learning_rate": LEARNING_RATE.value}
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(variant.recipe(task.recipes[run.bits]), **given)


def train(
    run: Run, variant: Variant, task: Task, recipe: Recipe
) -> tuple[keras_qat.QuantizedModel, dict[str, Any]]:
    """Starts or resumes one training. Returns the model and a record of its training."""
    keras.utils.set_random_seed(run.seed)
    qmodel = keras_qat.quantize(
        task.float_model(),
        variant.config(run.bits),
        calibration_data=task.images("train")[0][:CALIBRATION_IMAGES],
    )
    teacher = variant.teacher and variant.teacher(task, recipe, run.seed, run.state_folder)
    if variant.distills:
        qmodel.distill_from(teacher, label_weight=variant.label_weight)
    steps = task.steps()
    about = {"commit": commit(), **dataclasses.asdict(run), "recipe": recipe.stated()}
    backup = EpochBackup(
        run.state_folder / f"{run.name}.backup",
        about | {"reestimate": REESTIMATE.value},
        run.folder / f"{run.name}.csv",
        STOP_AT.value,
    )
    callbacks: list[Any] = [backup]
    if REESTIMATE.value:
        sample = task.batches(run.seed, 0).take(REESTIMATION_BATCHES)
        callbacks.insert(0, BatchNormReestimation(sample))
    rate: Any = recipe.learning_rate
    if qmodel.replaced_quantizers:
        callbacks.insert(0, PEGESchedule(**variant.curriculum))
    if qmodel.learned_widths:
        callbacks[:0] = [GDNSQSchedule(**variant.schedule), *_kept_width_monitor(run)]
    else:
        rate = keras.optimizers.schedules.CosineDecay(rate, recipe.epochs * steps)
    qmodel.compile(recipe.optimizer(rate), task.loss(), metrics=["accuracy"])
    done = backup.restore(qmodel)
    if not backup.finished:
        qmodel.fit(
            task.batches(run.seed, done),
            epochs=recipe.epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            validation_data=task.images("validation") if task.validates else None,
            validation_batch_size=500,
            shuffle=False,  # the batches are shuffled
            verbose=2,
            callbacks=callbacks,
        )
    if task.reestimates:
        sample = task.batches(run.seed, recipe.epochs).take(REESTIMATION_BATCHES)
        keras_qat.reestimate_batch_normalization(qmodel, sample)
    said = {
        "logs": {**backup.last_logs, **_arrival(qmodel)},
        "seconds": round(backup.seconds),
        "starts": backup.starts,
        "batches": recipe.epochs * steps,
        "commit": about["commit"],
        **({} if teacher is None else {"teacher_accuracy": _test_accuracy(teacher, task)}),
    }
    return qmodel, said


def _kept_width_monitor(run: Run) -> list[keras.callbacks.Callback]:
    """Records learned widths about a hundred times, and keeps what an earlier start recorded."""
    monitor = BitWidthMonitor(every=25)
    if run.widths.exists():
        monitor.history.update(json.loads(run.widths.read_text()))
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: monitor.save_json(run.widths)
    )
    return [monitor, save]


def _arrival(qmodel: keras_qat.QuantizedModel) -> dict[str, float]:
    """The batch after which all bit widths had met their targets. The model itself records it."""
    if qmodel.bit_width_penalty is None:
        return {}
    batches, converged_batches, converged, _ = np.asarray(qmodel.bit_width_penalty.progress)
    return {"targets_met_at": float(batches - converged_batches) if converged else 0.0}


def in_parts(
    function: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, part: int = 5000
) -> np.ndarray:
    """`function(inputs)`, a part at a time, for inputs that are larger than memory."""
    starts = range(0, len(inputs), part)
    return np.concatenate([function(inputs[start : start + part]) for start in starts])


def _test_accuracy(model: keras.Model, task: Task) -> float | None:
    if not TEST.value:
        return None
    images, labels = task.images("test")
    return accuracy(model.predict(images, batch_size=500, verbose=0), labels)


def evaluate(run: Run, qmodel: keras_qat.QuantizedModel, task: Task) -> dict[str, Any]:
    """Accuracies on the test set: the model's, and its file's if the model deploys."""
    test_images, labels = task.images("test")
    outputs = in_parts(lambda some: qmodel.predict(some, batch_size=500, verbose=0), test_images)
    found = {"qat_accuracy": accuracy(outputs, labels)}
    if not all(quantizer.deployable for quantizer in qmodel.quantizers):
        return found
    path = run.state_folder / f"{run.name}.tflite"
    samples = task.images("validation" if task.validates else "train")[0][:256]
    # A file that misses export's default limits is a result too, which says by how much.
    limits = {"min_argmax_agreement": 0.0, "max_flip_rate": 1.0}
    report = tflite_export.export(qmodel, path, samples=samples, **limits)
    report.save_json(path.with_suffix(".report.json"))
    file_outputs = in_parts(lambda some: tflite_export.predict(path, some), test_images)
    same = np.argmax(outputs, axis=-1) == np.argmax(file_outputs, axis=-1)
    return {
        **found,
        "tflite_accuracy": accuracy(file_outputs, labels),
        "argmax_agreement": 100.0 * float(np.mean(same)),
        "flip_rate": report.comparison.flip_rate,
        "weight_bits": {weight.name: weight.bits for weight in report.weights},
        "mismatches": report.mismatches,
        "compared_elements": report.compared_elements,
        "file_bytes": path.stat().st_size,
        "file_sha256": sha256(path),
    }


def commit() -> str:
    """The commit of this code, marked if files differ from it. It is empty outside of git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(pathlib.Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + (" with changes" if changed else "")


def execute(run: Run, variant: Variant, task: Task) -> None:
    """Trains and evaluates one run, and writes its result at once."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS.value)
    run.state_folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(task, run, variant)
    qmodel, said = train(run, variant, task, recipe)
    result = {
        **dataclasses.asdict(run),
        "task": task.name,
        "epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "recipe": recipe.stated(),
        "reestimated": REESTIMATE.value or task.reestimates,
        **said,
        "threads": THREADS.value,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    qmodel.save(run.state_folder / f"{run.name}.keras")
    if TEST.value:
        result |= evaluate(run, qmodel, task)
    replace_file(run.result, (json.dumps(result, indent=2) + "\n").encode())


def start(run: Run) -> str:
    """Does one run in its own process, and returns a line that says how it ended."""
    run.state_folder.mkdir(parents=True, exist_ok=True)
    log = run.state_folder / f"{run.name}.log"
    command = [sys.executable, *sys.argv, f"--only={run.variant},{run.bits},{run.seed}"]
    with log.open("a") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    ends = {0: "done", OUT_OF_TIME: "goes on another time"}
    return f"{run.name}: {ends.get(code, f'failed with exit code {code}, see {log}')}"


def report(folder: pathlib.Path, variants: Variants, task: Task, baseline: str) -> None:
    """Prints the table of finished runs. If they were tested, also draws it next to the folder."""
    cells = study_report.load_runs(folder, TEST.value)
    if not cells:
        print(f"No finished runs in {folder} yet.")
        return
    if not TEST.value:
        print(study_report.validation_table(cells), end="")
        return
    test_images, labels = task.images("test")
    outputs = task.float_model().predict(test_images, batch_size=500, verbose=0)
    float_accuracy = accuracy(outputs, labels)
    print(study_report.table(cells, list(variants), float_accuracy, baseline), end="")
    picture = folder.with_suffix(".png")
    study_report.plot(cells, list(variants), float_accuracy, picture)
    print(f"Picture: {picture}")


def run(
    variants: Variants,
    task: Task = resnet8.TASK,
    train_float: TrainFloat | None = None,
    baseline: str = "lsq",
) -> None:
    """The command line of a study. `--only=float,32,0` calls `train_float`, if there is one.

    The table has the difference of each variant from the baseline.
    """
    app.run(functools.partial(_main, variants, task, train_float, baseline))


def _main(
    variants: Variants,
    task: Task,
    train_float: TrainFloat | None,
    baseline: str,
    argv: list[str],
) -> None:
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
        only = Run(name, int(bits), int(seed))
        try:
            if train_float is not None and name == FLOAT:
                train_float(only)
            else:
                execute(only, variants[name], task)
        except OutOfTimeError as stopped:
            print(stopped)
            sys.exit(OUT_OF_TIME)
        return
    missing = [run for run in all_runs(variants) if not run.result.exists()]
    if REPORT_ONLY.value:
        missing = []
    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
        for line in pool.map(start, missing):
            print(line, flush=True)
    report(folder, variants, task, baseline)
