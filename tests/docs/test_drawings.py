"""The drawings of the pages are those of the code."""

import pathlib
import runpy

import pytest

import keras_qat
from tests.test_import_floors import run_python

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_drawings.py"))


def test_every_file_has_its_script(script):
    assert sorted(path.stem for path in (DOCS / "drawings").iterdir()) == sorted(script["DRAWINGS"])


@pytest.mark.parametrize("name", ["bits", "estimators", "quantizers", "replacement", "rooms"])
def test_a_drawing_is_fresh(script, name):
    digest = script["digest"](script["DRAWINGS"][name]())
    text = (DOCS / "drawings" / f"{name}.svg").read_text()
    assert f"digest {digest}" in text, "run: python docs/make_drawings.py"


def test_every_estimator_is_drawn(script):
    code = "from keras_qat import estimators; print(*estimators.names())"
    names = set(run_python(code).stdout.split())  # here, other tests register names of their own
    assert {each.name for each in script["ESTIMATORS"].values()} == names


@pytest.mark.parametrize("name", ["STE", "LSQ", "DoReFa", "WaveQ", "GDNSQ", "PEGE"])
def test_every_quantizer_of_a_config_is_drawn(script, name):
    config = getattr(keras_qat, f"{name}Config")(weight_bits=2, activation_bits=2)
    handed_out = {
        type(config.weight_quantizer(2)),
        type(config.activation_quantizer(2, signed=False, name="activation_quantizer")),
    }
    assert handed_out <= {type(new()) for new in script["ON_TWO_BITS"].values()}
