"""The source archive holds what a packager needs: the packages, their tests and the documents."""

import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LEFT_BEHIND = (".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", "results")
KINDS = {".py", ".md", ".npz", ".keras", ".tflite", ".cc", ".h", ".template", ".typed", ".cfg"}
BUILD = """
import sys, warnings
warnings.simplefilter("ignore")
from setuptools import build_meta
build_meta.build_sdist(sys.argv[1])
"""


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """The paths in the archive, built from a copy so that nothing is left in the clone."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    command = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(command, cwd=folder / "copy", capture_output=True, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        return {name.partition("/")[2] for name in file.getnames()}


@pytest.mark.parametrize("place", ["keras_qat", "tflite_export", "tests", "docs", "examples"])
def test_it_holds_every_file_of(place, archived):
    paths = [path for path in (ROOT / place).rglob("*") if path.suffix in KINDS]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}
    assert files
    assert files <= archived


def test_it_holds_the_papers_and_the_gate(archived):
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= archived
    assert {
        "pyproject.toml",
        "setup.cfg",
        ".ci/run",
        ".ci/matrix",
        ".github/workflows/ci.yml",
    } <= archived


def test_it_holds_nothing_that_a_run_leaves_behind(archived):
    assert not [name for name in archived if "__pycache__" in name or name.endswith(".pyc")]
