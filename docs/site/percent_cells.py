"""Tutorials: Python files with percent cells.

A cell begins with `# %%`, a cell of text with `# %% [markdown]`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re

FOLDER = pathlib.Path(__file__).parents[1] / "tutorials"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell: its text in Markdown, or its code."""

    is_text: bool
    source: str
    sets_parameters: bool = False


def files() -> list[pathlib.Path]:
    return sorted(FOLDER.glob("*.py"))


def cells(path: pathlib.Path) -> list[Cell]:
    """The cells of a file, in order."""
    found = []
    for part in re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        is_text = "[markdown]" in head
        if is_text:
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        found.append(Cell(is_text, body.strip(), "parameters" in head))
    return found


def digest(path: pathlib.Path) -> str:
    """A short name of the code of a file."""
    code = "\n".join(cell.source for cell in cells(path) if not cell.is_text)
    return hashlib.sha256(code.encode()).hexdigest()[:16]
