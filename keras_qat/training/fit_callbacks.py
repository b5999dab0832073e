"""The callbacks of a `fit`: those that its user gave, and those that a quantized model adds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.targets import problem_on
from keras_qat.training.backend_state import synchronize


def given_callbacks(arguments: Mapping[str, Any]) -> list[Any]:
    """The callbacks of a `fit`, from its arguments by name."""
    given = arguments.get("callbacks")
    found = keras.tree.flatten(getattr(given, "callbacks", given))  # a CallbackList
    return [each for each in found if each is not None]


def add_callback(model: Any, arguments: dict[str, Any], callback: Any, first: bool) -> None:
    """Adds a callback to a `fit`, in front of the user's callbacks or behind them.

    In front means behind a `SwapEMAWeights`, so that it sees the weights that are evaluated.

    Args:
        model: the model that trains.
        arguments: the arguments of `fit` by name; they are changed.
        callback: the callback.
        first: whether it comes in front.
    """
    given = arguments.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList):
        callback.set_model(model)
        given.callbacks.insert(_place(given.callbacks, first), callback)
        return
    callbacks = given_callbacks(arguments)
    callbacks.insert(_place(callbacks, first), callback)
    arguments["callbacks"] = callbacks


def _place(callbacks: list[Any], first: bool) -> int:
    """The index at which a callback is inserted."""
    if not first:
        return len(callbacks)
    swap = keras.callbacks.SwapEMAWeights
    behind = (index + 1 for index, each in enumerate(callbacks) if isinstance(each, swap))
    return max(behind, default=0)


def watch_rates(arguments: Mapping[str, Any]) -> None:
    """Tells the schedules of a `fit` whether another callback may set the rate before any batch."""
    callbacks = given_callbacks(arguments)
    others = any(map(_acts_on_batches, callbacks))
    for callback in callbacks:
        if getattr(callback, "schedules_bit_widths", False):
            callback.watches_rate = others


def _acts_on_batches(callback: Any) -> bool:
    """Whether a user's own callback, or a function in a `LambdaCallback`, acts on batches."""
    for name in ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"):
        method = getattr(callback, name, None)
        module = getattr(method, "__module__", None) or ""
        if name in vars(callback) or not module.startswith(("keras.", "keras_qat.")):
            return True
    return False


class TargetCheck(keras.callbacks.Callback):
    """Warns once, after the epoch in which the target no longer holds the network."""

    kept_by_backup = ("_warned",)

    def __init__(self, target: str):
        super().__init__()
        self._target = target
        self._warned = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._warned:
            return
        synchronize(self.model)
        try:
            problem = problem_on(self.model.planned_integer(), self._target)
        except ValueError as error:
            problem = str(error)
        if problem:
            self._warned = True
            warnings.warn(
                f"After epoch {epoch + 1}, target {self._target!r} cannot hold "
                f"{self.model.name!r} any more: {problem}",
                stacklevel=2,
            )
