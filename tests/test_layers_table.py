"""docs/layers.md is what the registries say."""

import dataclasses
import runpy

import pytest

from keras_qat.integer import ops
from keras_qat.layer_rules.table import RULES
from tests.test_readme import README
from tflite_export.ops.table import OP_EXPORTS

DOCS = README.parent / "docs"


@pytest.fixture(scope="module")
def generator():
    return runpy.run_path(str(DOCS / "make_layers.py"))


def test_the_table_is_fresh(generator):
    fresh = generator["render"]()
    assert (DOCS / "layers.md").read_text() == fresh, "run: python docs/make_layers.py"


def test_notes_and_replacements_are_of_layers_that_have_a_rule(generator):
    known = {*RULES, generator["layers"].ReLU}
    assert {*generator["NOTES"], *generator["REPLACED_BY"]} <= known


def test_an_op_that_a_target_does_not_run_is_a_no(generator, monkeypatch):
    of_litert_alone = dataclasses.replace(OP_EXPORTS[ops.Sub], targets=frozenset({"litert"}))
    monkeypatch.setitem(OP_EXPORTS, ops.Sub, of_litert_alone)
    rows = generator["render"]().splitlines()
    assert any(row.startswith("| Add | Add | yes | yes |") for row in rows)
    assert any(row.startswith("| Subtract | Sub | yes | no |") for row in rows)
