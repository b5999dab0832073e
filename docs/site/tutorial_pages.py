"""A hook of mkdocs: makes a page and a notebook of each tutorial.

A page shows the outputs of the last full run (`docs/make_tutorials.py`). A tutorial
whose code is newer ends the build.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from percent_cells import cells, digest, files

_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n*")
_LINK = re.compile(r"\[([^\]]*)\]\((?!http)[^)]*\)")
"""A link to another page, which is not where somebody takes the notebook."""


def kept_outputs(path: pathlib.Path) -> list[str]:
    """What each cell of code printed in the last full run."""
    kept = path.with_suffix("") / "outputs.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get("digest") != digest(path):
        raise PluginError(
            f"{path.name} has changed. Run: python docs/make_tutorials.py {path.stem}"
        )
    return found["outputs"]


def page(path: pathlib.Path) -> str:
    """The page of a tutorial: text, code and what the code printed."""
    outputs = iter(kept_outputs(path))
    parts = []
    for cell in cells(path):
        if cell.is_text:
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        if printed := next(outputs):
            parts.append(f"```text\n{printed}\n```")
    title, first, *rest = "\n\n".join(parts).split("\n\n")
    name = f"{path.stem}.ipynb"
    link = f'[This page as a notebook]({name}){{ download="{name}" }}'
    return "\n\n".join([title, first, link, *rest]) + "\n"


def notebook(path: pathlib.Path) -> str:
    """The tutorial as a notebook, without what it printed."""
    made = []
    for number, cell in enumerate(cells(path)):
        entry: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}}
        if cell.is_text:
            text = _LINK.sub(r"\1", _PICTURE.sub("", cell.source))
            made.append({**entry, "cell_type": "markdown", "source": text})
        else:
            code = {"cell_type": "code", "execution_count": None, "outputs": []}
            made.append({**entry, **code, "source": cell.source})
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return json.dumps({"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5})


def on_files(files_of_site: Files, config: Any) -> Files:
    for path in files():
        uri = f"tutorials/{path.stem}"
        files_of_site.append(File.generated(config, f"{uri}.md", content=page(path)))
        files_of_site.append(File.generated(config, f"{uri}.ipynb", content=notebook(path)))
        config.extra["sources"][f"{uri}.md"] = path  # links as in the repository
    return files_of_site
