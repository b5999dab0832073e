"""Kills trainings, exports and firmware at random moments, fills their disk, and counts losses.

    python benchmarks/reliability.py --kills=200
    python benchmarks/reliability.py --kills=12 --parts=training

A training is killed (SIGKILL), started again, and killed again, until it ends. Its variables, its
optimizer and its logs must then be equal, bit by bit, to a training that nobody killed. An export
and a set of firmware are written again and again, in turn for two networks. After each kill all
files there must be whole, and of one network. On a full disk the old files must stay as they were,
and a training must go on when there is room. Exits with 1 if anything was lost or mixed. With all
parts it writes benchmarks/results/reliability.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import contextlib
import dataclasses
import functools
import math
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import keras  # TensorFlow has not computed yet when a child is forked, so that it can
import numpy as np
from absl import app, flags

import keras_qat
import tflite_export
from keras_qat.callbacks import Backup, GDNSQSchedule, PEGESchedule
from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops

METHODS = ("ste", "lsq", "gdnsq", "pege")
PARTS = ("training", "export", "firmware", "disk")
PAGE = pathlib.Path(__file__).parent / "results" / "reliability.md"
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
    compiled = keras.backend.backend() == "jax"  # uncompiled, JAX takes 1.6 times as long
    qmodel.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=compiled)
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


def graph_of(seed: int) -> IntegerGraph:
    """A small network. Two seeds yield files of one size with other weights."""
    draws, builder = np.random.default_rng(seed), GraphBuilder()
    x = builder.add_input("x", (1, 64), QuantParams(np.float32(0.1)))
    grid = QuantParams(np.full(64, 0.01, np.float32), 0, -127, 127, 0)
    kernel = ops.QuantizedArray(draws.integers(-127, 128, (64, 64)).astype(np.int8), grid)
    op = ops.FullyConnected((x,), "y", kernel, np.zeros(64))
    return builder.build((builder.add(op, QuantParams(np.float32(1.0))),))


def write(what: str, folder: pathlib.Path, seed: int) -> None:
    """Writes the export or the firmware of one network."""
    folder.mkdir(exist_ok=True)
    if what == "export":
        tflite_export.export(graph_of(seed), folder / "net.tflite", verbose=False)
    else:
        tflite_export.write_micro(graph_of(seed), folder, name="net", verbose=False)


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """All files that are not the rest of a killed writing. Reports name their folder."""
    files = (path for path in folder.iterdir() if not path.name.endswith(".part"))
    return {path.name: path.read_bytes().replace(bytes(folder), b"") for path in files}


def whole_sets(what: str, folder: pathlib.Path) -> list[dict[str, bytes]]:
    found = []
    for seed in (0, 1):
        process = forked(functools.partial(write, what, folder / f"whole_{seed}", seed))
        if wait_for(process):
            raise RuntimeError(f"Writing {what} failed.")
        found.append(content(folder / f"whole_{seed}"))
    return found


def kill_writing(what: str, kills: int, draws: random.Random, folder: pathlib.Path) -> Row:
    """Kills a process that writes two networks in turn, and looks at what is there."""
    row, here = Row(what), folder / "here_it_i"
    sets = [_without_manifest(each) for each in whole_sets(what, folder)]

    def write_on() -> None:
        while True:
            for seed in (0, 1):
                write(what, here, seed)

    if wait_for(forked(functools.partial(write, what, here, 0))):
        raise RuntimeError(f"Writing {what} failed.")
    while row.kills < kills:
        process = forked(write_on)
        row.starts += 1
        ready = Writing(here, draws.randint(0, 3))
        row.kills += kill(process, ready, draws.choice((0.0, draws.uniform(0.0, 0.2))))
        row.torn += _without_manifest(content(here)) not in sets
    if wait_for(forked(functools.partial(write, what, here, 0))):
        raise RuntimeError(f"Writing {what} failed.")
    row.lost += any(folder.rglob(".*.part"))
    return row


def _without_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    """A manifest has the hash of a report, which names its folder."""
    return {name: data for name, data in files.items() if name != "net_files.json"}


class Writing:
    """Whether half written files are there, after a number of looks that found some."""

    def __init__(self, folder: pathlib.Path, wanted: int):
        self._folder = folder
        self._left = wanted
        self._seen: set[str] = set()

    def __call__(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            names = {path.name for path in self._folder.parent.rglob(".*.part")} - self._seen
            self._seen |= names
            self._left -= bool(names)
        return self._left < 0


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, kilobytes: int) -> Iterator[pathlib.Path]:
    """A disk of this size, as a folder. It needs the right to mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_disk_of_training(method: str, folder: pathlib.Path) -> Row:
    """Trains until the disk is full, and goes on when there is room."""
    row = Row(f"full disk: training, {method}", starts=2)
    if wait_for(forked(lambda: train(method, folder / "whole"))):
        raise RuntimeError(f"The uninterrupted training of {method} failed.")
    here = folder / "full"
    here.mkdir()
    (last,) = (folder / "whole" / "backups").glob("*_end")
    one = sum(path.stat().st_size for path in last.iterdir())
    with small_disk(folder / "disk", int(2.4 * one / 1024)) as disk:
        if wait_for(forked(lambda: train(method, here, disk / "backups"))) == 0:
            raise RuntimeError("The disk did not become full.")
        kept = [path.name for path in (disk / "backups").iterdir()]
        row.torn += any(name.endswith(".partial") for name in kept)
        row.lost += not kept
        shutil.copytree(disk / "backups", here / "backups")
    if wait_for(forked(lambda: train(method, here))):
        raise RuntimeError(f"A training of {method} did not go on.")
    row.lost += ends(here) != ends(folder / "whole")
    return row


def fill_disk_of_writing(what: str, folder: pathlib.Path) -> Row:
    """Writes one network, and another one when the disk is nearly full."""
    row = Row(f"full disk: {what}", starts=2)
    with small_disk(folder / "disk", 400) as disk:
        here = disk / "here"
        if wait_for(forked(functools.partial(write, what, here, 0))):
            raise RuntimeError(f"Writing {what} failed.")
        before = content(here)
        size = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(size.f_bavail * size.f_bsize))
        if wait_for(forked(functools.partial(write, what, here, 1))) == 0:
            raise RuntimeError("The disk did not become full.")
        row.torn += content(here) != before
        row.lost += any(disk.rglob(".*.part"))
    return row


def page(rows: list[Row]) -> str:
    """The table, with the commands that make it."""
    lines = [
        "# Kills and full disks",
        "",
        f"`python benchmarks/reliability.py --kills={KILLS.value} --seed={SEED.value}` kills "
        "(SIGKILL) and starts again. With `KERAS_BACKEND=jax` and `--parts=training` trainings "
        "run on JAX.",
        "",
        "| what | kills | starts | lost, or other bits | torn or mixed |",
        "|---|---|---|---|---|",
        *(f"| {r.what} | {r.kills} | {r.starts} | {r.lost} | {r.torn} |" for r in rows),
        "",
        "A training that was killed is compared with one that nobody killed: variables, optimizer "
        f"and logs, bit by bit. It has {EPOCHS} epochs of {BATCHES} batches, and a backup after "
        f"every epoch and every {SAVE_FREQ} batches; kills come up to 40 ms after a backup has "
        "begun. Exports and firmware are killed while files are written; what is there must be of "
        "one of two networks, whole. The disk is a tmpfs. What was there must stay, and a "
        "training goes on when there is room.",
    ]
    return "\n".join(lines) + "\n"


def work(folder: pathlib.Path) -> Iterator[Row]:
    """Does all parts that were chosen, one after the other."""
    draws, chosen = random.Random(SEED.value), CHOSEN.value
    shares = {"training": 2, "export": 1, "firmware": 1}
    whole = sum(shares[part] for part in shares if part in chosen)
    for number, method in enumerate(CHOSEN_METHODS.value if "training" in chosen else ()):
        (folder / method).mkdir()
        share = KILLS.value * shares["training"] / whole
        each = math.ceil(share * (number + 1) / len(CHOSEN_METHODS.value)) - math.ceil(
            share * number / len(CHOSEN_METHODS.value)
        )
        yield kill_trainings(method, each, draws, folder / method)
    for what in ("export", "firmware"):
        if what in chosen:
            (folder / what).mkdir()
            yield kill_writing(what, KILLS.value * shares[what] // whole, draws, folder / what)
    if "disk" in chosen:
        for method in CHOSEN_METHODS.value:
            (folder / f"disk_{method}").mkdir()
            yield fill_disk_of_training(method, folder / f"disk_{method}")
        for what in ("export", "firmware"):
            (folder / f"disk_{what}").mkdir()
            yield fill_disk_of_writing(what, folder / f"disk_{what}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for row in work(pathlib.Path(name)):
            rows.append(row)
            print(row, flush=True)
    if set(CHOSEN.value) == set(PARTS):
        _, heading, others = PAGE.read_text(encoding="utf-8").partition("\n## ")
        PAGE.write_text(page(rows) + heading + others, encoding="utf-8")  # of other programs
    sys.exit(not all(row.good for row in rows))


if __name__ == "__main__":
    app.run(main)
