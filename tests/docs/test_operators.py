"""docs/operators.md says of every operator what `check` says."""

import pathlib
import runpy

import pytest

from tflite_export.checks.check import CHECKED
from tflite_export.ops.table import operator_types

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operators.md").read_text()


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_operators.py"))


def columns() -> dict[str, dict[str, str]]:
    """Target -> operator -> status, as the page says."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.count("|") == 9]
    (_, *targets), _, *operators = (row for row in rows if row[0] != "")
    return {
        target: {row[0]: row[1 + place].split(" (")[0] for row in operators}
        for place, target in enumerate(targets)
    }


def test_every_target_and_every_operator_has_its_cell():
    page = columns()
    assert tuple(page) == CHECKED
    for target in page.values():
        assert {kind.code for kind in operator_types()} <= set(target)


@pytest.mark.parametrize("target", [each for each in CHECKED if each != "ethos-u"])
def test_the_page_is_fresh(script, target):
    """Vela is asked in tests/tflite_export/test_checks.py; 30 calls of it take 20 seconds."""
    found = {code: fact.status for code, fact in script["facts"](target).items()}
    stated = {code: word for code, word in columns()[target].items() if word != "not written"}
    assert found == stated, "run: PYTHONPATH=. python docs/make_operators.py"
