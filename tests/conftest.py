"""Shared by all tests: a quiet TensorFlow, and every random source seeded."""

import gc
import importlib
import os

import pytest

from tflite_export.file.runtimes import standard_error

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
standard_error(lambda: importlib.import_module("keras"))  # TensorFlow greets whatever the level

import keras  # noqa: E402  (not before its greeting is caught)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _fresh_session():
    yield
    keras.backend.clear_session()
    gc.freeze()  # what survives stays for good: no later collection looks at it again
