"""Reads the history of a `CapacityMonitor` from where it is."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_qat.callbacks import CapacityMonitor


def checked_history(history: Any) -> Mapping[str, Any]:
    """The history of a monitor, of a dict, or of the path of a JSON file.

    Raises:
        ValueError: something else, or a history without epochs.
        FileNotFoundError: no such JSON file.
    """
    if isinstance(history, CapacityMonitor):
        history = history.history
    elif isinstance(history, str | os.PathLike):
        history = _read_history(pathlib.Path(history))
    if not isinstance(history, Mapping) or not {"epochs", "tensors"} <= set(history):
        raise ValueError(
            "history must be a CapacityMonitor, its history or the path of its JSON file. "
            f"Received: {type(history).__name__}"
        )
    if not history["epochs"]:
        raise ValueError("The capacity history has no epoch yet: fit with the monitor first.")
    return history


def _read_history(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file of a CapacityMonitor: {error}") from error
