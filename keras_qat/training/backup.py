"""`Backup`: lets a training that was killed go on, to the last bit."""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_skipping import start_at
from keras_qat.training.backend_state import synchronize
from keras_qat.training.backup_files import (
    generations,
    name_of,
    newest,
    remove_torn,
    write_generation,
)


class Backup(keras.callbacks.Callback):
    """Saves the whole state of a training again and again, and goes on from it after a kill.

    Run the same script again: `fit` restores the newest whole backup and does what is left, with
    the same result, to the last bit. A backup has the weights, the optimizer with its schedules,
    the seeds of all random draws, the metrics, and in `fit` of a quantized model what its other
    callbacks know: the ones of keras_qat, `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`
    and `SwapEMAWeights` of Keras, and every callback that names attributes in `kept_by_backup`.

    A backup is a folder of its own. It is written under another name, flushed to the disk, and
    renamed, so it is whole or not there. Two are kept. The last one, of the finished training,
    stays: a script that is killed while it exports does not train again. Delete the folder to
    train anew.

    A backup is made after every epoch. With `save_freq=n` one is also made after every n batches,
    and a run that resumes skips the batches that it has seen. It can for arrays, for a
    `keras.utils.PyDataset`, and for a `tf.data.Dataset` of known length, or without end, whose
    shuffles have seeds; fix the seeds (`keras.utils.set_random_seed`). For other data, such as a
    generator, and in `fit` of another model than a quantized one, it goes on with the epoch, and
    says so when `fit` starts. Data whose order depends on the epoch may also begin with the epoch
    that `restore` returns: pass this as `initial_epoch`, and nothing is skipped but the batches of
    the epoch.

    Args:
        folder: the folder of the backups, for one training alone.
        save_freq: "epoch", or a number of batches.
        about: JSON data that must be equal for a training to go on, such as its recipe.
        verbose: 1 prints a line when `fit` starts, 0 prints nothing.

    Raises:
        OSError: from `fit`, when a backup cannot be written, as on a full disk.
        ValueError: another `save_freq`. When `fit` starts: the training in the folder is another
            one, or none of its backups is whole.

    >>> Backup("backups", save_freq=100).save_freq
    100
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        about: Any = None,
        verbose: int = 1,
    ):
        super().__init__()
        if save_freq != "epoch" and (
            isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1
        ):
            raise ValueError(
                'save_freq must be "epoch" or a whole number of batches from 1 on. '
                f"Received: {save_freq!r}"
            )
        self.folder = pathlib.Path(folder)
        self.save_freq = save_freq
        self.about = json.loads(json.dumps(about))  # as a file will have it
        self.verbose = verbose
        self.finished = False
        self.rows: list[dict[str, Any]] = []
        self.others: Any = None  # the other callbacks of the `fit`, where they are known
        self._seconds = 0.0
        self._starts = 0
        self._began = time.time()
        self._epoch = 0
        self._seen = 0
        self._restored: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far, without what a kill lost."""
        return self._seconds

    @property
    def starts(self) -> int:
        """How often the training was begun or resumed."""
        return self._starts

    @property
    def history(self) -> dict[str, list[Any]]:
        """The logs of all epochs, of earlier starts too, as `fit` returns them for its own."""
        names = dict.fromkeys(name for row in self.rows for name in row if name != "epoch")
        return {name: [row[name] for row in self.rows if name in row] for name in names}

    def restore(self, model: keras.Model) -> int:
        """Restores the newest whole backup, and returns the number of epochs that are done.

        `fit` calls it itself. Call it before for data that begins with this epoch.

        Raises:
            ValueError: the backups are of another training, or none is whole.
        """
        self._restored = state = self._find()
        if state is None:
            self._starts = 1
            return 0
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        if _shapes(model) != state.get("variables", _shapes(model)):
            raise ValueError(
                f"The training in {self.folder} is of another model: its variables have the shapes "
                f"{state['variables']}. Received: {model.name!r} with {_shapes(model)}. Choose "
                "another folder."
            )
        self.put_back_weights(model)
        self.rows, self._seconds = list(state["rows"]), float(state["seconds"])
        self._starts, self.finished = int(state["starts"]) + 1, bool(state["finished"])
        return int(state["epochs"])

    def _find(self) -> dict[str, Any] | None:
        state = newest(self.folder)
        if state is None and (torn := generations(self.folder)):
            raise ValueError(
                f"No backup in {self.folder} is whole: files of it are missing or damaged. "
                f"Received: {[each.name for each in torn]}. Delete the folder to train anew."
            )
        remove_torn(self.folder, None if state is None else state["folder"])
        if state is not None and state["about"] != self.about:
            raise ValueError(
                f"The training in {self.folder} began with {state['about']}, and goes on only "
                f"with the same. Received: {self.about}. Choose another folder."
            )
        return state

    @property
    def restored(self) -> dict[str, Any] | None:
        """The state that this run resumes from; `None` for a run that begins."""
        return self._restored

    @property
    def restored_batch(self) -> int:
        """The batches of its first epoch that a run which resumes has done before."""
        return 0 if self._restored is None else int(self._restored.get("batch", 0))

    def restored_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the backup: `metric/0`, ..., and the ones of other callbacks."""
        if self._restored is None or not self._restored["arrays"].exists():
            return {}
        with np.load(self._restored["arrays"], allow_pickle=False) as found:
            return dict(found.items())

    def put_back_weights(self, model: keras.Model) -> None:
        """Gives a model the weights, the optimizer's variables and the seeds of the backup."""
        if self._restored is not None:
            model.load_weights(self._restored["weights"])

    def on_train_begin(self, logs: Any = None) -> None:
        epochs = self.restore(self.model)
        state = self._restored
        if self.restored_batch and self._cannot_skip:
            raise ValueError(
                f"The backup in {self.folder} was made within an epoch, and this fit of "
                f"{self.model.name!r} cannot go on there: {self._cannot_skip}. Resume with the "
                "model and the data that it began with."
            )
        if state is not None:
            stops = state.get("stopped", False)
            start_at(self.model, self.params["epochs"] if stops else epochs)
        if self.verbose:
            print(self._says(epochs), flush=True)

    def _says(self, epochs: int) -> str:
        more = "" if self.save_freq == "epoch" else f" and {self.save_freq} batches"
        text = f"Backup: {self.folder} gets one after every epoch{more}."
        if self._cannot_skip and (more or self.others is not None):
            text += f" A run that resumes goes on with the epoch: {self._cannot_skip}."
        if self._restored is None:
            return text
        place = f"epoch {epochs + 1}"
        place += f", batch {self.restored_batch + 1}" if self.restored_batch else ""
        done = self.finished and epochs >= self.params["epochs"]
        goes = "This training is finished" if done else f"Going on with {place}"
        return f"{text} {goes} of {self.params['epochs']}."

    @property
    def _cannot_skip(self) -> str:
        """Why this run cannot skip batches that it has seen; empty if it can."""
        if self.others is None:
            return "batches are skipped only in fit of a quantized model"
        return str(self.others.obstacle)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        start_at(self.model, None)  # Keras would keep it for the next fit
        self._epoch, self._seen, self._began = epoch, self.restored_batch, time.time()
        self.finished = False

    def after_batch(self, batch: int) -> None:
        """Makes a backup if it is due after this batch of the epoch."""
        done, before = batch + 1, self._seen
        self._seen = done
        if isinstance(self.save_freq, str) or self._cannot_skip or self.model.stop_training:
            return
        if done // self.save_freq > before // self.save_freq:
            self._count_seconds()
            self.save(self._epoch, done)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._count_seconds()
        self.rows.append({"epoch": epoch, **{k: _number(v) for k, v in (logs or {}).items()}})
        self._restored = None
        if epoch + 1 < self.params["epochs"]:
            self.save(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        start_at(self.model, None)
        if self._restored is None:  # there was an epoch
            self.finished = True
            self.save(self._epoch + 1)

    def _count_seconds(self) -> None:
        now = time.time()
        self._seconds, self._began = self._seconds + now - self._began, now

    def save(self, epochs: int, batch: int = 0) -> None:
        """Makes a backup, after a number of epochs and of batches of the next one."""
        synchronize(self.model)
        arrays: list[np.ndarray] = []
        state = {
            "about": self.about,
            "epochs": epochs,
            "batch": batch,
            "finished": self.finished,
            "stopped": bool(self.model.stop_training),
            "of": self.params["epochs"],
            "rows": self.rows,
            "seconds": self._seconds,
            "starts": self._starts,
            "variables": _shapes(self.model),
            **({} if self.others is None else self.others.state(arrays)),
        }
        metrics = self.model.metrics_variables if batch else []
        named = {f"metric/{i}": ops.convert_to_numpy(each) for i, each in enumerate(metrics)}
        named |= {str(place): array for place, array in enumerate(arrays)}

        def write_files(weights: pathlib.Path, others: pathlib.Path) -> None:
            self.model.save_weights(weights)
            np.savez(others, allow_pickle=False, **named)

        name = name_of(epochs, batch, self.finished)
        try:
            write_generation(self.folder, name, state, write_files)
        except (OSError, RuntimeError) as error:  # h5py raises either on a full disk
            raise OSError(
                f"The backup {name} in {self.folder} could not be written, and the ones before are "
                f"whole. Make room, and run again to go on from them. Received: {error}"
            ) from error


def _shapes(model: keras.Model) -> list[list[int]]:
    return [list(each.shape) for each in [*model.variables, *model.optimizer.variables]]


def _number(value: Any) -> int | float:
    return value if isinstance(value, int | float) else float(value)
