"""Tries what users do around `fit` with every method: optimizers, options, callbacks, strategies.

    python benchmarks/around_fit.py

A small network that was trained on 256 points trains on in float, and with every method at 4
bits, all under the same treatment. A cell of the table is the accuracy on other 1,024 points in %,
once the file is exported and proven with 0 mismatches. It has one seed: the table shows what fails,
and no ranking of methods. A finished cell is not run again: delete the JSON file for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_qat
import tflite_export
from keras_qat.callbacks import EWGSSchedule, GDNSQSchedule, PEGESchedule

ONLY = flags.DEFINE_list("only", [], "Treatments to try; by default all.")
OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/around_fit.json", "Rows so far; the page lies beside it."
)

EPOCHS, BATCH = 8, 16
_BITS = {"weight_bits": 4, "activation_bits": 4}
METHODS: dict[str, Callable[[], Any]] = {
    "STE": lambda: keras_qat.STEConfig(**_BITS),
    "LSQ": lambda: keras_qat.LSQConfig(**_BITS),
    "DoReFa": lambda: keras_qat.DoReFaConfig(**_BITS),
    "GDNSQ": lambda: keras_qat.GDNSQConfig(**_BITS, start_bits=6),
    "PEGE": lambda: keras_qat.PEGEConfig(**_BITS),
    "EWGS": lambda: keras_qat.LSQConfig(**_BITS, estimator="ewgs"),
}


@dataclasses.dataclass(frozen=True)
class Treatment:
    """One way to train.

    Attributes:
        optimizer: makes the optimizer.
        compiled: arguments of `compile`.
        callbacks: makes the user's callbacks, from a folder.
        fitted: arguments of `fit`.
        policy: the dtype policy under which the float model is built.
        scope: the context around all.
    """

    optimizer: Callable[[], Any] = lambda: keras.optimizers.Adam(5e-3)
    compiled: dict[str, Any] = dataclasses.field(default_factory=dict)
    callbacks: Callable[[pathlib.Path], list[Any]] = lambda folder: []
    fitted: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: str = "float32"
    scope: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points, and classes that a linear model can tell."""
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return x, np.argmax(x @ np.random.default_rng(0).normal(size=(6, 3)), axis=-1)


X, Y = points(256, 1)
TEST_X, TEST_Y = points(1024, 2)
_STEPS = EPOCHS * len(X) // BATCH


def _mirrored() -> Any:
    # The default way to reduce fails for the second strategy of a process.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction).scope()


def _best(folder: pathlib.Path) -> list[Any]:
    path = folder / "best.keras"
    return [keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True)]


_adam = keras.optimizers.Adam
_cosine = keras.optimizers.schedules.CosineDecay
TREATMENTS: dict[str, Treatment] = {
    "Adam": Treatment(),
    "AdamW, weight decay 0.01": Treatment(lambda: keras.optimizers.AdamW(5e-3, weight_decay=0.01)),
    "SGD, momentum 0.9": Treatment(lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    "RMSprop": Treatment(lambda: keras.optimizers.RMSprop(2e-3)),
    "Nadam": Treatment(lambda: keras.optimizers.Nadam(5e-3)),
    "Lion": Treatment(lambda: keras.optimizers.Lion(1e-3)),
    "Adagrad": Treatment(lambda: keras.optimizers.Adagrad(0.05)),
    "`keras_qat.optimizers.RAdam`": Treatment(lambda: keras_qat.optimizers.RAdam(5e-3)),
    "cosine decay": Treatment(lambda: _adam(_cosine(1e-2, _STEPS))),
    "`clipnorm=1`": Treatment(lambda: _adam(5e-3, clipnorm=1.0)),
    "`global_clipnorm=1`": Treatment(lambda: _adam(5e-3, global_clipnorm=1.0)),
    "`gradient_accumulation_steps=2`": Treatment(
        lambda: _adam(5e-3, gradient_accumulation_steps=2)
    ),
    "`use_ema=True`": Treatment(lambda: _adam(5e-3, use_ema=True, ema_momentum=0.9)),
    "`LossScaleOptimizer`": Treatment(lambda: keras.optimizers.LossScaleOptimizer(_adam(5e-3))),
    "`jit_compile=True`": Treatment(compiled={"jit_compile": True}),
    "`run_eagerly=True`": Treatment(compiled={"run_eagerly": True}),
    "`steps_per_execution=4`": Treatment(compiled={"steps_per_execution": 4}),
    "`mixed_float16`": Treatment(policy="mixed_float16"),
    "`mixed_bfloat16`": Treatment(policy="mixed_bfloat16"),
    "`EarlyStopping`": Treatment(
        callbacks=lambda folder: [keras.callbacks.EarlyStopping("loss", patience=9)]
    ),
    "`ReduceLROnPlateau`": Treatment(
        callbacks=lambda folder: [keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1)]
    ),
    "`LearningRateScheduler`": Treatment(
        callbacks=lambda folder: [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate)
        ]
    ),
    "`SwapEMAWeights`": Treatment(
        lambda: _adam(5e-3, use_ema=True, ema_momentum=0.9),
        callbacks=lambda folder: [keras.callbacks.SwapEMAWeights()],
    ),
    "`BackupAndRestore`": Treatment(
        callbacks=lambda folder: [keras.callbacks.BackupAndRestore(folder / "backup")]
    ),
    "`ModelCheckpoint`": Treatment(callbacks=_best),
    "`class_weight`": Treatment(fitted={"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}),
    "`sample_weight`": Treatment(fitted={"sample_weight": np.linspace(0.5, 1.5, len(X))}),
    "`validation_split=0.2`": Treatment(fitted={"validation_split": 0.2}),
    "`MirroredStrategy`, two devices": Treatment(scope=_mirrored),
}


def float_model() -> keras.Model:
    """Three dense layers, 6 numbers in, 3 classes."""
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, activation="relu")(inputs)
    x = keras.layers.Dense(16, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", dtype="float32")(x))


def trained(model: keras.Model, treatment: Treatment, schedules: list[Any]) -> None:
    """Trains a model under the treatment."""
    model.compile(
        treatment.optimizer(),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **{"jit_compile": False, **treatment.compiled},
    )
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [*schedules, *treatment.callbacks(pathlib.Path(folder))]
        model.fit(
            X,
            Y,
            epochs=EPOCHS,
            batch_size=BATCH,
            verbose=0,
            callbacks=callbacks,
            **treatment.fitted,
        )


def schedules_of(method: str) -> list[Any]:
    """The callbacks that a method needs."""
    if method == "GDNSQ":
        return [GDNSQSchedule(verbose=0)]
    if method == "PEGE":
        return [PEGESchedule()]
    return [EWGSSchedule(X[:64], Y[:64], every=3, start=2)] if method == "EWGS" else []


def accuracy(model: keras.Model) -> float:
    """Accuracy on the test points, in percent."""
    scores = model.predict(TEST_X, verbose=0, batch_size=256)
    return 100.0 * float(np.mean(np.argmax(scores, axis=-1) == TEST_Y))


def attempt(treatment: Treatment, method: str, folder: pathlib.Path) -> str:
    """What a cell of the table says."""
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(treatment.policy)
    try:
        with treatment.scope():
            model = float_model()
            model.compile(_adam(5e-3), "sparse_categorical_crossentropy", jit_compile=False)
            model.fit(X, Y, epochs=EPOCHS, batch_size=BATCH, verbose=0)
            if method == "float":
                trained(model, treatment, [])
                return f"{accuracy(model):.1f}"
            qmodel = keras_qat.quantize(model, METHODS[method](), calibration_data=X)
            trained(qmodel, treatment, schedules_of(method))
        report = tflite_export.export(qmodel, folder / "net.tflite", samples=X, verbose=False)
        flips = sum(tensor.differing for tensor in report.comparison.tensors)
        if report.mismatches:
            return f"{report.mismatches} mismatches"
        return f"{accuracy(qmodel):.1f}" + (f" ({flips})" if flips else "")
    except Exception as error:
        print(method, error, flush=True)
        return type(error).__name__
    finally:
        keras.config.set_dtype_policy(before)
        keras.backend.clear_session()


def page(rows: dict[str, dict[str, str]]) -> str:
    """The table as Markdown."""
    methods = ["float", *METHODS]
    lines = [
        "# What was tried around `fit`",
        "",
        "Accuracy in % of a small network on 1,024 test points. A float model trains on in float,",
        "and with every method at 4 bits (`GDNSQ` from 6), under the same treatment. One seed: the",
        "table shows that each combination trains, exports and is proven with 0 mismatches, and",
        "does not rank methods. In brackets: elements of layers, of 256 examples, that Keras sums",
        "in float32 to the other side of a tie.",
        "",
        "| treatment | " + " | ".join(methods) + " |",
        "|---|" + "---:|" * len(methods),
    ]
    for name, cells in rows.items():
        lines.append(f"| {name} | " + " | ".join(cells[method] for method in methods) + " |")
    return "\n".join([*lines, "", "```sh", "python benchmarks/around_fit.py", "```", ""])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    warnings.simplefilter("ignore")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    output = pathlib.Path(OUTPUT.value)
    rows: dict[str, dict[str, str]] = json.loads(output.read_text()) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, treatment in TREATMENTS.items():
            if ONLY.value and name not in ONLY.value:
                continue
            row = rows.setdefault(name, {})
            missing = [method for method in ("float", *METHODS) if method not in row]
            if not missing:
                continue
            row |= {each: attempt(treatment, each, pathlib.Path(folder)) for each in missing}
            print(json.dumps({name: rows[name]}), flush=True)
            output.write_text(json.dumps(rows, indent=2) + "\n")
            output.with_suffix(".md").write_text(page(rows))


if __name__ == "__main__":
    app.run(main)
