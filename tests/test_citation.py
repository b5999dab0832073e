"""CITATION.cff says what setup.cfg says, and names the papers that the code follows."""

import configparser
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
SETUP = configparser.ConfigParser()
SETUP.read_string((ROOT / "setup.cfg").read_text())
METADATA = SETUP["metadata"]


def test_it_agrees_with_setup():
    assert CITATION["version"] == METADATA["version"]
    assert CITATION["license"] == METADATA["license"]
    assert CITATION["title"].partition(":")[0] == METADATA["name"]
    assert set(CITATION["keywords"]) == set(METADATA["keywords"].split(", "))


def test_it_has_what_the_format_requires():
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        (identifier,) = reference["identifiers"]
        assert reference["url"].endswith(identifier["value"].removeprefix("arXiv:"))


def test_the_papers_of_both_methods_are_the_sources_of_the_code():
    config = (ROOT / "keras_qat" / "config.py").read_text()
    named = {
        each["identifiers"][0]["value"].removeprefix("arXiv:") for each in CITATION["references"]
    }
    assert named == {"2508.14004", "2509.00097"}
    assert named <= set(re.findall(r"arXiv (\d{4}\.\d{5})", config))
