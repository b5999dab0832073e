"""Does long trainings one after the other, beside other work: runs of any study, from a list.

    python benchmarks/run_queue.py --minutes=90
    python benchmarks/run_queue.py --status

A line of the list has a study, a variant, bits and a seed (`benchmarks/queue.txt`). Each run has
one thread at the lowest priority, or more with the flag --threads=2 in its line. It uses a frozen
copy of the committed code, a clone with its own environment in --queue_dir, so the tree may change
meanwhile. A run that was killed or ran out of time goes on from its last epoch, with the commit it
began with. Runs of a study wait while its float model trains. A finished run is a JSON file in the
study's folder of --results_dir, next to a CSV file of its epochs. Commit both. Backups and trained
models stay in --queue_dir. If that folder is lost, the runs begin again.

This file is not named queue.py, because it would hide Python's own `queue`.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from absl import app, flags
from rich.console import Console
from rich.table import Table

from keras_qat.training.backup_files import newest

_HERE = pathlib.Path(__file__).resolve().parent
_ROOT = _HERE.parent
_OUT_OF_TIME = 75  # the value in study.py, which loads TensorFlow
_FLOAT = "float"  # the same
_ONE_THREAD = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # which TensorFlow turns off on older processors
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}

LIST = flags.DEFINE_string("list", str(_HERE / "queue.txt"), "The runs, in their order.")
RESULTS_DIR = flags.DEFINE_string("results_dir", str(_HERE / "results"), "Where results go.")
QUEUE_DIR = flags.DEFINE_string(
    "queue_dir",
    str(pathlib.Path.home() / ".cache" / "keras_qat" / "queue"),
    "Folder of frozen code, backups and trained models.",
)
SHARED = flags.DEFINE_string("shared", str(_ROOT.parent / "shared"), "Data and float models.")
MINUTES = flags.DEFINE_float("minutes", None, "Stop between two epochs, before this time is over.")
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time.", 1)
STATUS = flags.DEFINE_bool("status", False, "Print how far every run is, and do nothing.")
NICE = flags.DEFINE_integer("nice", 19, "Added to the niceness of runs.", 0, 19)
FROZEN = flags.DEFINE_bool(
    "frozen", True, "Run a frozen copy of the last commit, not the files as they are."
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the list."""

    study: str
    variant: str
    bits: int
    seed: int
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"w{self.bits}a{self.bits}_{self.variant}_seed{self.seed}"

    @property
    def title(self) -> str:
        return f"{self.folder_name}/{self.name}"

    @property
    def folder_name(self) -> str:
        return pathlib.PurePath(self.study).stem

    @property
    def results(self) -> pathlib.Path:
        return pathlib.Path(RESULTS_DIR.value, self.folder_name)

    @property
    def states(self) -> pathlib.Path:
        return pathlib.Path(QUEUE_DIR.value, "runs", self.folder_name)

    @property
    def is_done(self) -> bool:
        return (self.results / f"{self.name}.json").exists()

    def state(self) -> dict | None:
        """The state in the newest whole backup; `None` without a backup."""
        return newest(self.states / f"{self.name}.backup")


def entries(path: pathlib.Path) -> list[Entry]:
    """The runs in the lines of a list. `#` begins a comment.

    Raises:
        ValueError: a line states no run; the message has its number.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        try:
            study, variant, bits, seed, *more = words
            found.append(Entry(study, variant, int(bits), int(seed), tuple(more)))
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: a line is 'study variant bits seed [flags]'. Received: {line!r}"
            ) from error
    return found


@dataclasses.dataclass(frozen=True)
class Code:
    """The folder with the code of a run, and the Python that runs it."""

    root: pathlib.Path
    python: str


def code_for(entry: Entry) -> Code:
    """The code that a run began with. A new run takes the last commit."""
    if not FROZEN.value:
        return Code(_ROOT, sys.executable)
    state = entry.state()
    return frozen(_git("rev-parse", "HEAD") if state is None else state["about"]["commit"])


def frozen(commit: str) -> Code:
    """A clone at a commit, with its own environment. It is made at the first call.

    It is not a worktree, which would be lost with its repository.
    """
    root = pathlib.Path(QUEUE_DIR.value, "code", commit)
    python = root / ".venv" / "bin" / "python"
    ready = root / ".venv" / "ready"
    if not ready.exists():
        print(f"Freezing {commit[:9]} in {root}", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        _git("clone", "-q", "--no-checkout", str(_ROOT), str(root))
        subprocess.run(["git", "-C", root, "checkout", "-q", "--detach", commit], check=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", root / ".venv"], check=True)
        install = [python, "-m", "pip", "install", "-q", "-e", f"{root}[benchmarks]"]
        subprocess.run(install, check=True)
        ready.touch()
    return Code(root, str(python))


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def do(entry: Entry, code: Code, stop_at: float | None) -> int:
    """Does one run until it is finished or its time is up, and returns its exit code."""
    for folder in (entry.results, entry.states):
        folder.mkdir(parents=True, exist_ok=True)
    script = pathlib.Path(entry.study)
    if not script.suffix:
        script = code.root / "benchmarks" / f"{entry.study}.py"
    command = [
        *(code.python, str(script)),
        f"--only={entry.variant},{entry.bits},{entry.seed}",
        f"--output_dir={entry.results}",
        f"--state_dir={entry.states}",
        f"--shared_dir={SHARED.value}",
        *([] if stop_at is None else [f"--stop_at={stop_at}"]),
        *entry.flags,
    ]
    places = os.pathsep.join([str(code.root / "benchmarks"), str(code.root)])
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": places}
    with (entry.states / f"{entry.name}.log").open("a") as log:
        process = subprocess.Popen(
            command,
            cwd=code.root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(NICE.value),
        )
        _RUNNING.append(process)
        try:
            return process.wait()
        finally:
            _RUNNING.remove(process)


_RUNNING: list[subprocess.Popen] = []


def _end(signal_number: int, frame: object) -> None:
    """Ends all runs. They can go on from their last epochs."""
    for process in list(_RUNNING):
        process.terminate()
    sys.exit(128 + signal_number)


def next_ready(waiting: list[Entry], running: Iterable[Entry]) -> Entry | None:
    """The first run that can begin. The runs of a study wait while its float model trains."""
    training = {entry.folder_name for entry in running if entry.variant == _FLOAT}
    return next((entry for entry in waiting if entry.folder_name not in training), None)


def work(todo: list[Entry], stop_at: float | None) -> int:
    """Does the runs in order, --jobs at a time, and returns the exit code of the queue."""
    waiting, failed = list(todo), 0
    running: dict[Future[int], Entry] = {}
    with ThreadPoolExecutor(JOBS.value) as pool:
        while True:
            while len(running) < JOBS.value and (stop_at is None or time.time() < stop_at):
                entry = next_ready(waiting, running.values())
                if entry is None:
                    break
                waiting.remove(entry)
                code = code_for(entry)
                print(f"{entry.title}: begins, or goes on", flush=True)
                running[pool.submit(do, entry, code, stop_at)] = entry
            if not running:
                return min(failed, 1)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                entry, result = running.pop(future), future.result()
                log = entry.states / f"{entry.name}.log"
                ends = {0: "done", _OUT_OF_TIME: "goes on another time"}
                print(f"{entry.title}: {ends.get(result, f'failed ({result}), see {log}')}")
                failed += result not in ends
                if result == _OUT_OF_TIME:
                    waiting.clear()  # no time for another run's epoch, either


def rows(listed: list[Entry]) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, epoch, training loss, training accuracy and hours left of every run."""
    for entry in listed:
        history = entry.results / f"{entry.name}.csv"
        last = {}
        if history.exists():
            with history.open(newline="") as file:
                last = list(csv.DictReader(file))[-1]
        loss = last.get("task_loss") or last.get("loss") or ""
        numbers = [f"{float(each):.4f}" if each else "" for each in (loss, last.get("accuracy"))]
        if entry.is_done:
            yield entry.title, "done", *numbers, ""
        elif (state := entry.state()) is not None:
            epochs, of = state["epochs"], state["of"]
            hours = state["seconds"] / epochs * (of - epochs) / 3600
            yield entry.title, f"{epochs} of {of}", *numbers, f"{hours:.1f}"
        else:
            yield entry.title, "waits", "", "", ""


def status(listed: list[Entry]) -> None:
    """Prints a table of all runs."""
    table = Table("run", "epoch", "training loss", "accuracy", "hours left")
    for row in rows(listed):
        table.add_row(*row)
    Console(width=110).print(table)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    listed = entries(pathlib.Path(LIST.value))
    if STATUS.value:
        status(listed)
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    stop_at = None if MINUTES.value is None else time.time() + 60 * MINUTES.value
    code = work([entry for entry in listed if not entry.is_done], stop_at)
    status(listed)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main)
