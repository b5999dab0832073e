"""The pages of the targets say what the exporter does."""

import pathlib
import runpy

import pytest

from tflite_export.targets import TARGETS

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_targets.py"))


def test_every_target_has_a_page():
    assert sorted(path.stem for path in (DOCS / "targets").iterdir()) == sorted(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_page_is_fresh(script, name):
    fresh = script["render"](TARGETS[name])
    page = DOCS / "targets" / f"{name}.md"
    assert page.read_text() == fresh, "run: python docs/make_targets.py"


def test_an_op_that_a_target_does_not_run_is_said(script):
    text = script["render"](TARGETS["tflm"])
    assert "Not here: " in text
    assert "| FloatPart |" not in text


def test_a_limit_is_a_power_of_two(script):
    assert script["power"](2.0**-31) == "2^-31"
    with pytest.raises(ValueError, match=r"Received: 0\.3"):
        script["power"](0.3)
