"""The files of backups: which generation is whole, and writing that is never half done."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

WEIGHTS = "state.weights.h5"
STATE = "state.json"
PARTIAL = ".partial"


def newest(folder: pathlib.Path) -> dict[str, Any] | None:
    """The state of the newest whole generation, with the path of its weights; `None` if none is."""
    states = map(_state_of, generations(folder))
    return next((state for state in states if state is not None), None)


def _state_of(generation: pathlib.Path) -> dict[str, Any] | None:
    """What a generation says, if it is whole."""
    weights = generation / WEIGHTS
    try:
        state: dict[str, Any] = json.loads((generation / STATE).read_text(encoding="utf-8"))
        whole = sha256(weights) == state["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return {**state, "weights": weights} if whole else None


def generations(folder: pathlib.Path) -> list[pathlib.Path]:
    """All of a folder, the newest first; whole or not."""
    found = [path for path in folder.glob("epoch_*") if path.suffix != PARTIAL]
    return sorted(found, reverse=True)


def sha256(path: pathlib.Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole: before, what was there stays."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def flush(path: pathlib.Path) -> None:
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
