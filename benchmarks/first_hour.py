"""Times what a newcomer does first: install, quickstart, tutorials; and the build of the site.

    python benchmarks/first_hour.py

It makes a fresh virtual environment of this Python in a temporary folder, installs the clone there,
and runs the blocks of docs/quickstart.md and the cells of the tutorials as they stand. The table
goes to benchmarks/results/first_hour.md.
"""

from __future__ import annotations

import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / "benchmarks" / "results" / "first_hour.md"
EXTRAS = "examples,tflm,docs"
HEAD = """# The first hour

Written by `benchmarks/first_hour.py`. Seconds by the clock, on {cores} cores with a load of
{load:.1f} before the first step, Python {python}. The environment is fresh, and packages come from
a cache near by.

| step | seconds |
|---|---:|
"""
FIRST_FILE = "first exported file, from the start of the quickstart"


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def run(command: list[Any], folder: pathlib.Path) -> None:
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "NO_MKDOCS_2_WARNING": "1"}
    quiet.pop("PYTHONPATH", None)  # what is installed counts
    done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")


def quickstart(python: pathlib.Path, folder: pathlib.Path) -> dict[str, float]:
    """Seconds of the whole page, and until its first file is there."""
    text = (ROOT / "docs" / "quickstart.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (folder / "quickstart.py").write_text("\n".join(blocks))
    start = time.time()
    whole = timed(lambda: run([python, "quickstart.py"], folder))
    first = (folder / "digits.tflite").stat().st_mtime - start
    return {FIRST_FILE: first, "quickstart as a whole": whole}


def main() -> None:
    load = os.getloadavg()[0]
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run([sys.executable, "-m", "venv", folder / "venv"], folder)
        python = folder / "venv" / "bin" / "python"
        install = [python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[{EXTRAS}]"]
        seconds[f'`pip install -e ".[{EXTRAS}]"`'] = timed(lambda: run(install, folder))
        seconds |= quickstart(python, folder)
        for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
            step = timed(lambda path=path: run([python, path], folder))
            seconds[f"tutorial `{path.name}`"] = step
        build = [python, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml"]
        site = [*build, "-d", folder / "site"]
        seconds["site, built strictly"] = timed(lambda: run(site, folder))
    head = HEAD.format(cores=os.cpu_count(), load=load, python=platform.python_version())
    rows = "".join(f"| {step} | {value:.0f} |\n" for step, value in seconds.items())
    PATH.write_text(f"{head}{rows}\n```sh\npython benchmarks/first_hour.py\n```\n")


if __name__ == "__main__":
    main()
