"""Kills trainings at random moments, and counts what is lost.

    python benchmarks/reliability.py --kills=200
    python benchmarks/reliability.py --kills=12 --parts=training

A training is killed (SIGKILL), started again, and killed again, until it ends. Its variables, its
optimizer and its logs must then be equal, bit by bit, to a training that nobody killed. Exits with
1 if one is not.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import dataclasses
import functools
import math
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import keras  # TensorFlow has not computed yet when a child is forked, so that it can
import numpy as np
from absl import app, flags

import keras_qat
from keras_qat.callbacks import Backup, GDNSQSchedule, PEGESchedule

METHODS = ("ste", "lsq", "gdnsq", "pege")
PARTS = ("training",)
EPOCHS, BATCHES, SAVE_FREQ = 6, 8, 3

KILLS = flags.DEFINE_integer("kills", 200, "Kills in all; trainings get half of them.", 1)
CHOSEN = flags.DEFINE_multi_enum("parts", list(PARTS), PARTS, "What is killed.")
CHOSEN_METHODS = flags.DEFINE_multi_enum("methods", list(METHODS), METHODS, "What is trained.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")


@dataclasses.dataclass
class Row:
    """What happened to one thing that was killed."""

    what: str
    kills: int = 0
    starts: int = 0
    lost: int = 0
    torn: int = 0

    @property
    def good(self) -> bool:
        return not self.lost and not self.torn


def forked(work: Callable[[], None]) -> int:
    """Runs a function in a child process, and returns its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of threads, which it has not started yet
        process = os.fork()
    if process:
        return process
    code = 1
    try:
        warnings.simplefilter("ignore")
        work()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)
    return 0


def kill(process: int, ready: Callable[[], bool], seconds: float) -> bool:
    """Kills a child some time after it is ready, and returns whether it still ran.

    Raises:
        RuntimeError: it failed before.
    """
    end = None
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"A child failed by itself: {os.waitstatus_to_exitcode(status)}")
            return False
        if end is None and ready():
            end = time.monotonic() + seconds
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return wait_for(process) == -signal.SIGKILL


def wait_for(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


CONFIGS = {
    "ste": keras_qat.STEConfig(weight_bits=3, activation_bits=3),
    "lsq": keras_qat.LSQConfig(weight_bits=3, activation_bits=3),
    "gdnsq": keras_qat.GDNSQConfig(weight_bits=7, activation_bits=7, start_bits=8),
    "pege": keras_qat.PEGEConfig(weight_bits=3, activation_bits=3),
}


def train(method: str, folder: pathlib.Path, backups: pathlib.Path | None = None) -> None:
    """Trains a small network, and writes all that must be equal to `end.npz`."""
    keras.utils.set_random_seed(0)
    draws = np.random.default_rng(0)
    x = draws.normal(size=(8 * BATCHES, 6)).astype(np.float32)
    y = (x.sum(axis=1) > 0).astype(int) + (x[:, 0] > 1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, activation="relu", name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(hidden), name="small")
    qmodel = keras_qat.quantize(model, CONFIGS[method], calibration_data=x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False)
    backup = Backup(backups or folder / "backups", SAVE_FREQ, verbose=0)
    schedules = {"gdnsq": [GDNSQSchedule(verbose=0)], "pege": [PEGESchedule()]}.get(method, [])
    watched = "loss_feasible" if method == "gdnsq" else "loss"
    best = keras.callbacks.EarlyStopping(watched, mode="min", patience=EPOCHS)
    callbacks = [*schedules, best, backup]
    qmodel.fit(x, y, batch_size=8, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    variables = [*qmodel.variables, *qmodel.optimizer.variables]
    found = {str(place): keras.ops.convert_to_numpy(v) for place, v in enumerate(variables)}
    found |= {f"log/{name}": np.asarray(values) for name, values in backup.history.items()}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "part.npz", **found)
    (folder / "part.npz").rename(folder / "end.npz")


def ends(folder: pathlib.Path) -> dict[str, bytes]:
    with np.load(folder / "end.npz") as found:
        return {name: array.tobytes() for name, array in found.items()}


def kill_trainings(method: str, kills: int, draws: random.Random, folder: pathlib.Path) -> Row:
    """Kills trainings of one method, and compares each one that ended with an uninterrupted one."""
    row = Row(f"training, {method}, {keras.backend.backend()}")
    if wait_for(forked(lambda: train(method, folder / "whole"))):
        raise RuntimeError(f"The uninterrupted training of {method} failed.")
    runs = 0
    while row.kills < kills:
        runs += 1
        here = folder / f"run_{runs}"
        while not (here / "end.npz").exists():
            process = forked(functools.partial(train, method, here))
            row.starts += 1
            ready = NewBackups(here / "backups", draws.randint(1, 8) if row.kills < kills else None)
            row.kills += kill(process, ready, draws.uniform(0.0, 0.04))
        row.lost += ends(here) != ends(folder / "whole")
        shutil.rmtree(here)
    return row


class NewBackups:
    """Whether a number of backups have appeared, half written ones too; never for `None`."""

    def __init__(self, folder: pathlib.Path, wanted: int | None):
        self._folder = folder
        self._wanted = wanted
        self._old = self._names()
        self._new: set[str] = set()

    def _names(self) -> set[str]:
        return {path.name for path in self._folder.glob("*")}

    def __call__(self) -> bool:
        self._new |= self._names() - self._old
        return self._wanted is not None and len(self._new) >= self._wanted


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    draws, rows = random.Random(SEED.value), []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if "training" in CHOSEN.value:
            each = math.ceil(KILLS.value / len(CHOSEN_METHODS.value))
            for method in CHOSEN_METHODS.value:
                (folder / method).mkdir()
                rows.append(kill_trainings(method, each, draws, folder / method))
                print(rows[-1], flush=True)
    sys.exit(not all(row.good for row in rows))


if __name__ == "__main__":
    app.run(main)
