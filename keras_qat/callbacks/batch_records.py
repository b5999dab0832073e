"""`BatchRecords`: the part that monitors over the batches of a run share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_qat.integer.files import replace_file
from keras_qat.training.backend_state import synchronize


class BatchRecords(keras.callbacks.Callback):
    """Mixin for a monitor that records before the first batch and after every `every` batches.

    It also records after the last batch of an epoch. A `fit` that continues another one extends the
    history, and replaces what is done again. A subclass implements `_add_record`.

    Args:
        every: the batches from one record to the next.
        history: an empty history; each of its lists has one entry for each record.

    Raises:
        ValueError: an `every` below 1. When `fit` starts: a run of unknown length.
    """

    kept_by_backup = ("history", "_done")

    def __init__(self, every: int, history: dict[str, Any]):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number from 1 on. Received: {every!r}")
        self.history = history
        self._every = every
        self._before = 0
        self._done = 0

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.params.get("steps"):
            raise ValueError(
                f"{type(self).__name__} counts the batches of the whole run, and this dataset does "
                "not tell its length: pass steps_per_epoch to fit."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._before, self._done = epoch * self.params["steps"], 0
        self._forget_from(self._before if epoch == 0 else self._before + 1)
        if not self.history["batches"]:
            self._record(self._before)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = batch + 1  # several more than before with `steps_per_execution`
        if done // self._every > self._done // self._every or done == self.params["steps"]:
            self._record(self._before + done)
        self._done = done

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the history as JSON. If writing fails, an older file stays as it was."""
        replace_file(path, json.dumps(self.history, allow_nan=False).encode())

    def _record(self, batches: int) -> None:
        synchronize(self.model)
        self.history["batches"].append(batches)
        self._add_record()

    def _add_record(self) -> None:
        """Appends to every other list of the history."""
        raise NotImplementedError(f"{type(self).__name__} must implement _add_record()")

    def _forget_from(self, batches: int) -> None:
        """Drops the records from this number of batches on, which are done again."""
        kept = sum(done < batches for done in self.history["batches"])
        for values in list(_lists(self.history)):
            del values[kept:]


def _lists(tree: dict[str, Any]) -> Iterator[list[Any]]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from _lists(value)
        elif isinstance(value, list):
            yield value
