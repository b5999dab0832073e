"""Shared by all tests: a quiet TensorFlow, every random source seeded, and what is slow."""

import collections
import gc
import importlib
import os

import hypothesis
import pytest

from tflite_export.file.runtimes import standard_error

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
standard_error(lambda: importlib.import_module("keras"))  # TensorFlow greets whatever the level

import keras  # noqa: E402  (not before its greeting is caught)

hypothesis.settings.register_profile("fast", max_examples=15)


def pytest_configure(config):
    """The fast run also tries fewer examples."""
    if config.option.markexpr == "not slow":
        hypothesis.settings.load_profile("fast")


FAST_TESTS = pytest.StashKey[dict[str, int]]()
"""How many fast tests each file has, of the files that were collected."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """Marks the cases that `slow_beyond` leaves out as slow, and counts the others."""
    cases, fast = collections.Counter(), collections.Counter()
    for item in items:
        file, test = item.nodeid.partition("::")[0], item.nodeid.partition("[")[0]
        cases[test] += 1
        mark = item.get_closest_marker("slow_beyond")
        if mark is not None and cases[test] > mark.args[0]:
            item.add_marker("slow")
        fast[file] += item.get_closest_marker("slow") is None
    config.stash[FAST_TESTS] = dict(fast)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _fresh_session():
    yield
    keras.backend.clear_session()
    gc.freeze()  # what survives stays for good: no later collection looks at it again
