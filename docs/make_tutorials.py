"""Runs tutorials in full and keeps what they print and draw.

    python docs/make_tutorials.py                # all of them: some minutes
    python docs/make_tutorials.py own_quantizer  # one

The outputs of a tutorial lie in the folder of its name: `outputs.json`, and the pictures that its
page shows.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parent / "site"))

from percent_cells import cells, digest, files


def run(path: pathlib.Path, parameters: Mapping[str, Any] | None = None) -> list[str]:
    """Runs the cells of a tutorial in the current folder; what each cell of code prints.

    Args:
        path: the file.
        parameters: other values for the cell of parameters.

    Raises:
        ValueError: a parameter that this cell does not set.
    """
    names: dict[str, Any] = {"__name__": path.stem}
    outputs = []
    for number, cell in enumerate(cells(path)):
        if cell.is_text:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, f"{path.name}, cell {number}", "exec"), names)
        outputs.append(printed.getvalue().strip())
        if cell.sets_parameters and parameters:
            if unknown := set(parameters) - set(names):
                raise ValueError(f"{path.name} has no parameters {sorted(unknown)}.")
            names |= parameters
    return outputs


def keep(path: pathlib.Path) -> None:
    """Runs a tutorial in a temporary folder, and keeps its outputs and the pictures it shows."""
    kept = path.with_suffix("")
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        outputs = run(path)
        for picture in re.findall(rf"\]\({path.stem}/([\w.]+)\)", path.read_text()):
            shutil.copy(picture, kept / picture)
    content = {"digest": digest(path), "outputs": outputs}
    (kept / "outputs.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    wanted = set(sys.argv[1:])
    for tutorial in files():
        if not wanted or tutorial.stem in wanted:
            keep(tutorial)
            print(tutorial.stem)
