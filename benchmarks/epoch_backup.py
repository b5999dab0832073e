"""`EpochBackup`: a `Backup` that also writes a CSV file of epochs, and ends when the time is up."""

from __future__ import annotations

import csv
import io
import pathlib
import time
from typing import Any

import keras

from keras_qat.callbacks import Backup
from keras_qat.integer.files import replace_file


class EpochBackup(Backup):
    """A `Backup` after every epoch, with a CSV file of the epochs. Trainings resume with `restore`.

    Args:
        folder, about: see `keras_qat.callbacks.Backup`.
        history: a CSV file that is rewritten after each epoch; `None` for none.
        stop_at: no epoch begins that would probably end after this `time.time()`.

    Raises:
        OutOfTimeError: from `fit`, when the time is up.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        about: dict[str, Any],
        history: pathlib.Path | None = None,
        stop_at: float | None = None,
    ):
        super().__init__(folder, about=about, verbose=0)
        self._history = history
        self._stop_at = stop_at
        self._epoch_began = 0.0

    @property
    def last_logs(self) -> dict[str, float]:
        """The logs of the last epoch."""
        return {name: float(value) for name, value in self.rows[-1].items() if name != "epoch"}

    def restore(self, model: keras.Model) -> int:
        epochs = super().restore(model)
        self._write_history()
        return epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch_began = time.time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        took = time.time() - self._epoch_began
        super().on_epoch_end(epoch, logs)
        self._write_history()
        goes_on = epoch + 1 < self.params["epochs"]
        if goes_on and self._stop_at is not None and time.time() + took > self._stop_at:
            raise OutOfTimeError(f"{self.folder.name}: no time for another epoch")

    def _write_history(self) -> None:
        if self._history is None or not self.rows:
            return
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        replace_file(self._history, text.getvalue().encode())


class OutOfTimeError(Exception):
    """The time is up. The training can go on from its last epoch later."""
