"""Environments that hold what a wheel asks for and nothing else, made of links in a second."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements_in(wheel: pathlib.Path) -> list[Requirement]:
    """What a wheel asks for, with the markers of its extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    head = "Requires-Dist: "
    return [Requirement(line.removeprefix(head)) for line in lines if line.startswith(head)]


def packages_for(wheel: pathlib.Path, extras: Iterable[str]) -> set[str]:
    """The packages that `pip install wheel[extras]` brings, by the metadata of the ones here."""
    own = requirements_in(wheel)
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [("keras-qat", extra) for extra in ("", *extras)]
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        if package == "keras-qat":
            asked = own
        else:
            found.add(package)
            asked = [Requirement(each) for each in importlib.metadata.requires(package) or ()]
        for each in asked:
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                name = canonicalize_name(each.name)
                waiting += [(name, wanted) for wanted in ("", *each.extras)]
    return found


def environment(folder: pathlib.Path, wheel: pathlib.Path, extras: Iterable[str]) -> pathlib.Path:
    """Python of a fresh environment with the wheel in it, and links to what the wheel asks for."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("[Ll]ib/**/site-packages")
    for package in packages_for(wheel, extras):
        distribution = importlib.metadata.distribution(package)
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(pathlib.Path(str(distribution.locate_file(top))))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # of pure Python, that is what installing does
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"
