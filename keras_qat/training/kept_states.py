"""What callbacks know of a run so far, as JSON and arrays, for a run that resumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_OF_KERAS: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.History: ("epoch", "history"),
}


def kept_names(callback: Any) -> tuple[str, ...]:
    """The attributes of a callback that go on with a run.

    A callback names its own in the class attribute `kept_by_backup`; a name may have dots.

    >>> kept_names(keras.callbacks.ReduceLROnPlateau())
    ('wait', 'best', 'cooldown_counter')
    """
    own = getattr(callback, "kept_by_backup", ())
    found = (names for kind, names in _OF_KERAS.items() if isinstance(callback, kind))
    return (*next(found, ()), *own)


def state_of(callback: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    """What a callback knows, as JSON. Arrays go to the list, and the JSON has their places."""
    state = {}
    for name in kept_names(callback):
        owner, attribute = _owner(callback, name)
        if owner is not None and hasattr(owner, attribute):
            state[name] = _packed(getattr(owner, attribute), arrays, callback, name)
    return state


def put_back(callback: Any, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives a callback what `state_of` returned."""
    for name in kept_names(callback):
        owner, attribute = _owner(callback, name)
        if owner is not None and name in state:
            setattr(owner, attribute, _unpacked(state[name], arrays))


def _owner(callback: Any, name: str) -> tuple[Any, str]:
    *path, attribute = name.split(".")
    owner = callback
    for each in path:
        owner = getattr(owner, each, None)
    return owner, attribute


def _packed(value: Any, arrays: list[np.ndarray], callback: Any, name: str) -> Any:
    def pack(each: Any) -> Any:
        return _packed(each, arrays, callback, name)

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {"dict": [[pack(key), pack(each)] for key, each in value.items()]}
    if isinstance(value, list):
        return [pack(each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [pack(each) for each in value]}
    if isinstance(value, set):
        return {"set": [pack(each) for each in sorted(value)]}
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        arrays.append(np.asarray(value))
        return {"scalar" if isinstance(value, np.generic) else "array": len(arrays) - 1}
    if keras.ops.is_tensor(value):
        return float(value)
    raise TypeError(
        f"{type(callback).__name__}.{name} is to be kept by a backup: it must be made of numbers, "
        f"text, arrays, lists, tuples, sets and dicts. Received: {type(value).__name__}"
    )


def _unpacked(packed: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(packed, list):
        return [_unpacked(each, arrays) for each in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, held),) = packed.items()
    if kind == "array":
        return arrays[str(held)]
    if kind == "scalar":
        return arrays[str(held)][()]
    values = [_unpacked(each, arrays) for each in held]
    if kind == "dict":
        return dict(values)
    return tuple(values) if kind == "tuple" else set(values)
