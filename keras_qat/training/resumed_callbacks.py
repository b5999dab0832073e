"""The callbacks of a `fit` with a `Backup`: silent while seen batches are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_qat.keras_skipping import build_metrics, skip_batches
from keras_qat.training.backup import Backup
from keras_qat.training.fit_callbacks import given_callbacks
from keras_qat.training.kept_states import put_back, state_of
from keras_qat.training.seen_data import SeenData, draws, restore_draws


def resume_with_backup(model: Any, arguments: dict[str, Any]) -> None:
    """Puts the callbacks of a `fit` into one `ResumedCallbacks`, if a `Backup` is among them.

    Raises:
        ValueError: several backups, or a `CallbackList`.
    """
    callbacks = given_callbacks(arguments)
    backups = [each for each in callbacks if isinstance(each, Backup)]
    if not backups:
        return
    if len(backups) > 1:
        raise ValueError(
            f"A fit of {model.name!r} makes one Backup. Received: {len(backups)}, in "
            f"{[str(each.folder) for each in backups]}"
        )
    if isinstance(arguments.get("callbacks"), keras.callbacks.CallbackList):
        raise ValueError(
            f"A fit of {model.name!r} with a Backup takes callbacks as a list. Received: a "
            "CallbackList"
        )
    others = [each for each in callbacks if each is not backups[0]]
    data = SeenData(model, arguments)
    arguments["callbacks"] = [ResumedCallbacks(others, backups[0], data)]


class ResumedCallbacks(keras.callbacks.Callback):
    """Calls the callbacks of a run, and lets them go on where a killed run was.

    The backup comes last, so it saves what the others changed. While seen batches are skipped, no
    callback hears of them.

    Args:
        others: all callbacks but the backup.
        backup: the backup.
        data: the training data.
    """

    def __init__(self, others: list[Any], backup: Backup, data: SeenData):
        super().__init__()
        self._others = others
        self._backup = backup
        self._data = data
        self._skip = 0
        self._draws: dict[str, Any] | None = None
        self.async_safe = backup.save_freq == "epoch" and not any(map(_acts, others))
        backup.others = self

    @property
    def obstacle(self) -> str:
        """Why the data cannot be skipped; empty if it can."""
        return self._data.obstacle

    @property
    def _kinds(self) -> list[str]:
        return [type(each).__name__ for each in self._others]

    @property
    def _all(self) -> list[Any]:
        return [*self._others, self._backup]

    def state(self, arrays: list[Any]) -> dict[str, Any]:
        """What the others know, and the random numbers that data draws, for a backup."""
        kept = {str(place): state_of(each, arrays) for place, each in enumerate(self._others)}
        return {"callbacks": kept, "kinds": self._kinds, "draws": self._draws or draws()}

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        for each in self._all:
            each.set_params(params)

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        for each in self._all:
            each.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        for each in self._all:
            each.on_train_begin(logs)
        self._put_back()

    def _put_back(self) -> None:
        """Gives the others what they knew."""
        state = self._backup.restored
        if state is None or "kinds" not in state:
            return
        if state["kinds"] != self._kinds:
            warnings.warn(
                f"The callbacks of this fit are not those of the backup in {self._backup.folder}, "
                f"so they begin anew: {self._kinds}. The backup has {state['kinds']}.",
                stacklevel=2,
            )
            return
        arrays = self._backup.restored_arrays()
        for place, each in enumerate(self._others):
            put_back(each, state["callbacks"][str(place)], arrays)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        state, batch = self._backup.restored, self._backup.restored_batch
        before = 0 if state is None else self._data.replay_epochs(epoch)
        if state is not None and "draws" in state:
            restore_draws(state["draws"])
        self._draws, self._skip = draws(), batch
        for each in self._all:
            each.on_epoch_begin(epoch, logs)
        if batch:
            self._put_back()
            self._backup.put_back_weights(self.model)
            self._put_back_metrics()
        if before or batch:
            skip_batches(self.model, before, batch, self._when_skipped)

    def _put_back_metrics(self) -> bool:
        """Gives metrics their values of the middle of the epoch, if their variables are there."""
        arrays = self._backup.restored_arrays()
        values = [arrays[name] for name in arrays if name.startswith("metric/")]
        variables = self.model.metrics_variables
        if len(variables) != len(values):
            return False
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return True

    def _when_skipped(self, data: Any) -> None:
        if self._skip and not self._put_back_metrics():
            build_metrics(self.model, data)
            self._put_back_metrics()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch >= self._skip:
            for each in self._others:
                each.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch >= self._skip:
            for each in self._others:
                each.on_train_batch_end(batch, logs)
            self._backup.after_batch(batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._skip, self._draws = 0, None
        for each in self._all:
            each.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        for each in self._all:
            each.on_train_end(logs)
        self._backup.others = None

    def on_test_begin(self, logs: Any = None) -> None:
        self._tell("on_test_begin", logs)

    def on_test_end(self, logs: Any = None) -> None:
        self._tell("on_test_end", logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._tell("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._tell("on_test_batch_end", batch, logs)

    def _tell(self, hook: str, *arguments: Any) -> None:
        for each in self._others:
            method: Callable[..., Any] = getattr(each, hook)
            method(*arguments)


def _acts(callback: Any) -> bool:
    """Whether a callback does anything after a batch. Keras must not call it in a thread then."""
    names = ("on_batch_end", "on_train_batch_end", "on_test_batch_end")
    return not getattr(callback, "async_safe", False) and any(
        not getattr(getattr(callback, name), "_is_default", False) for name in names
    )
