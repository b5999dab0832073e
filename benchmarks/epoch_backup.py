"""`EpochBackup`: lets a training that was killed go on from its last finished epoch."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import shutil
import time
from typing import Any

import keras
from backup_files import (
    PARTIAL,
    STATE,
    WEIGHTS,
    flush,
    generations,
    newest,
    replace_text,
    sha256,
)

_KEPT = 2


class EpochBackup(keras.callbacks.Callback):
    """Saves the whole state of a training after every epoch, and restores it.

    A generation is a folder with the weights, the optimizer's variables, and a JSON file: the
    epochs done, their logs, and the SHA-256 of the weights. A generation is written under another
    name, flushed to the disk, and renamed. Two generations are kept, and `restore` takes the newest
    whole one. So neither a kill during a backup nor a damaged file costs more than an epoch.

    The last epoch is saved when training ends, after the other callbacks. Put this callback after
    callbacks that change logs or the model.

    Args:
        folder: folder of the generations, for one training alone.
        about: JSON data that must be equal for a training to go on, such as commit and recipe.
        history: a CSV file that is rewritten after each epoch; `None` for none.
        stop_at: no epoch begins that would probably end after this `time.time()`.

    Raises:
        ValueError: from `restore`, if the training began with another `about`.
        OutOfTimeError: from `fit`, when the time is up.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        about: dict[str, Any],
        history: pathlib.Path | None = None,
        stop_at: float | None = None,
    ):
        super().__init__()
        self._folder = folder
        self._about = about
        self._history = history
        self._stop_at = stop_at
        self._rows: list[dict[str, str]] = []
        self._seconds = 0.0
        self._starts = 0
        self._began = 0.0
        self.finished = False

    @property
    def seconds(self) -> float:
        """Seconds of training so far, without lost epochs."""
        return self._seconds

    @property
    def starts(self) -> int:
        """How often the training was begun or resumed."""
        return self._starts

    @property
    def last_logs(self) -> dict[str, float]:
        """The logs of the last epoch."""
        return {name: float(value) for name, value in self._rows[-1].items() if name != "epoch"}

    def restore(self, model: keras.Model) -> int:
        """Restores the newest whole generation, and returns the number of epochs done."""
        model.optimizer.build(model.trainable_variables)
        for partial in self._folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(partial)
        state = newest(self._folder)
        if state is None:
            self._starts = 1
            return 0
        if state["about"] != self._about:
            raise ValueError(
                f"The training in {self._folder} began with {state['about']}, and goes on only "
                f"with the same. Received: {self._about}"
            )
        model.load_weights(state["weights"])
        self._rows, self._seconds = state["rows"], state["seconds"]
        self._starts, self.finished = state["starts"] + 1, state["finished"]
        self._write_history()
        return state["epochs"]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        took = time.time() - self._began
        self._seconds += took
        self._rows.append({"epoch": str(epoch), **{k: str(v) for k, v in (logs or {}).items()}})
        if epoch + 1 < self.params["epochs"]:
            self._save()
            if self._stop_at is not None and time.time() + took > self._stop_at:
                raise OutOfTimeError(f"{self._folder.name}: no time for another epoch")

    def on_train_end(self, logs: Any = None) -> None:
        self.finished = True
        self._save()

    def _save(self) -> None:
        epochs = len(self._rows)
        name = f"epoch_{epochs:05d}"
        partial = self._folder / (name + PARTIAL)
        partial.mkdir(parents=True)
        self.model.save_weights(partial / WEIGHTS)
        state = {
            "about": self._about,
            "epochs": epochs,
            "finished": self.finished,
            "of": self.params["epochs"],
            "rows": self._rows,
            "seconds": self._seconds,
            "starts": self._starts,
            "sha256": sha256(partial / WEIGHTS),
        }
        (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for path in (partial / WEIGHTS, partial / STATE, partial):
            flush(path)
        complete = self._folder / name
        shutil.rmtree(complete, ignore_errors=True)  # from an earlier try; not whole
        partial.rename(complete)
        flush(self._folder)
        for old in generations(self._folder)[_KEPT:]:
            shutil.rmtree(old)
        self._write_history()

    def _write_history(self) -> None:
        if self._history is None or not self._rows:
            return
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        replace_text(self._history, text.getvalue())


class OutOfTimeError(Exception):
    """The time is up. The training can go on from its last epoch later."""
