"""Files of backups: finds the newest whole generation, and replaces files in one piece."""

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
    """The state of a generation; `None` if it is not whole."""
    weights = generation / WEIGHTS
    try:
        state: dict[str, Any] = json.loads((generation / STATE).read_text(encoding="utf-8"))
        whole = sha256(weights) == state["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return {**state, "weights": weights} if whole else None


def generations(folder: pathlib.Path) -> list[pathlib.Path]:
    """All generations in a folder, whole or not, the newest first."""
    found = [path for path in folder.glob("epoch_*") if path.suffix != PARTIAL]
    return sorted(found, reverse=True)


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: pathlib.Path, text: str) -> None:
    """Replaces a file in one piece. Until then the old file stays."""
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
