"""Reads the history of a monitor from where it is."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

_KEYS = ("val_accuracy", "accuracy")


def checked_history(
    history: Any, monitor: type[Any], along: str, key: str = ""
) -> Mapping[str, Any]:
    """The history of a monitor, of a dict, or of the path of a JSON file.

    Args:
        history: what the user passed.
        monitor: the class of the monitor.
        along: the key of the list that has an entry for each record: "epochs" or "batches".
        key: a key that every tensor of the history has.

    Raises:
        ValueError: something else, or a history without records.
        FileNotFoundError: no such JSON file.
    """
    if isinstance(history, monitor):
        history = history.history
    elif isinstance(history, str | os.PathLike):
        path = pathlib.Path(history)
        try:
            history = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f"{path} is not a JSON file of a {monitor.__name__}: {error}"
            ) from error
    fits = isinstance(history, Mapping) and {along, "tensors"} <= set(history)
    if not fits or (key and any(key not in tensor for tensor in history["tensors"].values())):
        raise ValueError(
            f"history must be a {monitor.__name__}, its history or the path of its JSON file. "
            f"Received: {type(history).__name__}"
        )
    if not history[along]:
        raise ValueError(f"The history of the {monitor.__name__} is empty: fit with it first.")
    found: Mapping[str, Any] = history
    return found


def accuracies(given: Any, epochs: Sequence[int]) -> npt.NDArray[np.float64] | None:
    """One accuracy for each epoch; NaN for an epoch that a `History` does not have."""
    if given is None:
        return None
    if isinstance(given, keras.callbacks.History):
        counts = {key: len(values) for key, values in given.history.items()}
        whole = [key for key in _KEYS if counts.get(key) == len(given.epoch)]
        if not whole:
            raise ValueError(
                "The History has neither 'val_accuracy' nor 'accuracy' for each epoch: compile "
                "with metrics=['accuracy'], or pass one number for each epoch. Received "
                f"{len(given.epoch)} epochs, and numbers by key: {counts}"
            )
        known = dict(zip(given.epoch, given.history[whole[0]], strict=True))
        return np.array([known.get(epoch, np.nan) for epoch in epochs], dtype=np.float64)
    found = np.asarray(given, dtype=np.float64)
    if found.shape != (len(epochs),):
        raise ValueError(
            f"The accuracy must have one number for each of {len(epochs)} epochs. Received: "
            f"numbers of the shape {found.shape}"
        )
    return found
