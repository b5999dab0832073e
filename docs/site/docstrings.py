"""An extension of griffe: docstrings as pages of Markdown.

Examples become blocks of code, and public names become links.
"""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

import griffe

sys.path.append(str(pathlib.Path(__file__).parent))  # griffe loads this file alone

from api_pages import CODE_OR_NAME, places

_EXAMPLE = re.compile(r"^( *)>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)


def fenced(text: str) -> str:
    """The text with a fence around each run of lines that begins with `>>>`."""
    return _EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


def linked(text: str, but: str = "") -> str:
    """The text with a link from every public name, except those to the path `but`."""

    def link(found: re.Match[str]) -> str:
        path = places().get(found[1] or "", "#").partition("#")[2]
        return found[0] if path in ("", but) else f"[{found[0]}][{path}]"

    return CODE_OR_NAME.sub(link, text)


class PagesOfMarkdown(griffe.Extension):
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = linked(fenced(obj.docstring.value), but=obj.path)
