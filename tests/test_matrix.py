"""setup.cfg promises the versions that `.ci/matrix` has tested, and no others."""

import importlib.machinery
import importlib.util
import pathlib
import sys

import pytest

CI = pathlib.Path(__file__).parents[1] / ".ci"
SETUP = (CI.parent / "setup.cfg").read_text()


@pytest.fixture(scope="module")
def matrix():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("matrix", str(CI / "matrix"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("matrix", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setitem(sys.modules, "matrix", module)  # where dataclasses look
        loader.exec_module(module)
        yield module


def test_every_cell_was_tested_and_passed(matrix):
    rows = matrix.read_table((CI / "matrix.md").read_text())
    assert list(rows) == [cell.name for cell in matrix.cells_of(SETUP)]
    assert {row["Failed"] for row in rows.values()} == {"0"}
    assert all(int(row["Passed"]) > 0 for row in rows.values())


def test_the_cells_are_the_versions_of_setup_cfg(matrix):
    text = """
[metadata]
classifiers =
    Programming Language :: Python :: 3.11
    Programming Language :: Python :: 3.12
[options]
install_requires =
    keras>=3.13
[options.extras_require]
tensorflow =
    tensorflow>=2.19,<2.22
"""
    cells = [(cell.name, cell.python, cell.requirements) for cell in matrix.cells_of(text)]
    assert cells == [
        ("Python 3.11", "3.11", ()),
        ("Python 3.12", "3.12", ()),
        ("TensorFlow 2.19", "3.11", ("tensorflow==2.19.*",)),
        ("TensorFlow 2.20", "3.11", ("tensorflow==2.20.*",)),
        ("Keras 3.13", "3.11", ("keras==3.13.*",)),
        ("JAX alone", "3.11", matrix.JAX_ALONE.requirements),
    ]
    assert "tensorflow" not in " ".join((matrix.JAX_ALONE.extras, *matrix.JAX_ALONE.requirements))


def test_a_setup_cfg_without_ranges_is_refused(matrix):
    with pytest.raises(SystemExit, match=r"needs classifiers .* Received Pythons"):
        matrix.cells_of(SETUP.replace("tensorflow>=", "tensorflow=="))


def test_a_table_is_read_as_it_was_written(matrix):
    row = {name: name.lower() for name in matrix.COLUMNS}
    assert matrix.read_table(matrix.write_table({"cell": row})) == {"cell": row}


def test_an_interpreter_that_does_not_run_is_named(matrix, monkeypatch):
    monkeypatch.setenv("PYTHONS", "/nowhere/python3.12")
    with pytest.raises(SystemExit, match=r"PYTHONS names '/nowhere/python3\.12', which does not"):
        matrix.interpreters()
