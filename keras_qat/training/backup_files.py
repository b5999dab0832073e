"""Files of backups: generations that are whole or not there, and files replaced in one piece."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from keras_qat.integer.files import flush

WEIGHTS = "state.weights.h5"
ARRAYS = "state.npz"
STATE = "state.json"
PARTIAL = ".partial"
KEPT = 2
"""A generation that the disk damages later costs no more than the way from the one before."""


def newest(folder: pathlib.Path) -> dict[str, Any] | None:
    """The state of the newest whole generation, with the paths of its files; `None` if none is."""
    states = map(_state_of, generations(folder))
    return next((state for state in states if state is not None), None)


def _state_of(generation: pathlib.Path) -> dict[str, Any] | None:
    """The state of a generation; `None` if it is not whole."""
    weights, arrays = generation / WEIGHTS, generation / ARRAYS
    try:
        state: dict[str, Any] = json.loads((generation / STATE).read_text(encoding="utf-8"))
        whole = sha256(weights) == state["sha256"]
        if "sha256_of_arrays" in state:
            whole &= sha256(arrays) == state["sha256_of_arrays"]
            whole &= _digest(state) == state["sha256_of_state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**state, "weights": weights, "arrays": arrays, "folder": generation} if whole else None


def generations(folder: pathlib.Path) -> list[pathlib.Path]:
    """All generations in a folder, whole or not, the newest first."""
    found = [path for path in folder.glob("epoch_*") if path.suffix != PARTIAL]
    return sorted(found, reverse=True)


def name_of(epochs: int, batch: int, finished: bool) -> str:
    """The name of a generation, after these epochs and batches. Names sort by time.

    >>> name_of(2, 0, False), name_of(2, 12, False), name_of(2, 0, True)
    ('epoch_00002', 'epoch_00002_batch_00000012', 'epoch_00002_end')
    """
    more = f"_batch_{batch:08d}" if batch else "_end" if finished else ""
    return f"epoch_{epochs:05d}{more}"


def write_generation(
    folder: pathlib.Path,
    name: str,
    state: dict[str, Any],
    write_files: Callable[[pathlib.Path, pathlib.Path], None],
) -> None:
    """Writes a generation beside the others, waits for the disk, and gives it its name.

    Args:
        folder: the folder of all generations.
        name: the name, see `name_of`.
        state: what `state.json` holds.
        write_files: writes the weights and the arrays to two paths.

    Raises:
        OSError: the disk is full, or cannot be written to. The older generations are as they were.
    """
    partial = folder / (name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_files(partial / WEIGHTS, partial / ARRAYS)
        whole = {**state, "sha256": sha256(partial / WEIGHTS)}
        whole["sha256_of_arrays"] = sha256(partial / ARRAYS)
        whole["sha256_of_state"] = _digest(whole)
        (partial / STATE).write_text(json.dumps(whole, indent=1), encoding="utf-8")
        for path in (partial / WEIGHTS, partial / ARRAYS, partial / STATE, partial):
            flush(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    complete = folder / name
    shutil.rmtree(complete, ignore_errors=True)  # from an earlier try; not whole
    partial.rename(complete)
    flush(folder)
    for old in generations(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def remove_torn(folder: pathlib.Path, whole: pathlib.Path | None) -> None:
    """Removes what a kill left half written, and damaged generations newer than a whole one."""
    for partial in folder.glob(f"*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)
    for generation in generations(folder):
        if whole is not None and generation.name > whole.name:
            shutil.rmtree(generation, ignore_errors=True)


def _digest(state: dict[str, Any]) -> str:
    """The SHA-256 of a state without its own."""
    known = {name: value for name, value in state.items() if name != "sha256_of_state"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
