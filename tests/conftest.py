"""Shared by all tests: a quiet TensorFlow, every random source seeded, and what is slow."""

import collections
import gc
import importlib
import os

import hypothesis
import numpy as np
import pytest

from tflite_export.file.runtimes import standard_error

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow trains grouped convolutions on CPUs with oneDNN alone, and turns it off on older ones.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ["COLUMNS"] = "400"  # what is searched in printed lines does not go on in the next one
standard_error(lambda: importlib.import_module("keras"))  # TensorFlow greets whatever the level

import keras  # noqa: E402  (not before its greeting is caught)

gc.freeze()  # what was imported stays, and no collection looks at it
gc.set_threshold(50_000, 20, 50)  # collections of everything took a tenth of the time

hypothesis.settings.register_profile("fast", max_examples=15)
hypothesis.settings.register_profile("gate", max_examples=int(os.environ.get("EXAMPLES", "30")))


def pytest_configure(config):
    """The fast run tries fewest examples, the gate more, and `EXAMPLES=300` as many as it says."""
    fast = config.option.markexpr == "not slow" and "EXAMPLES" not in os.environ
    hypothesis.settings.load_profile("fast" if fast else "gate")
    # Of `nothing_is_compiled`; it does not matter here that tf.data compiles its own functions.
    config.addinivalue_line("filterwarnings", "ignore:Even though the `tf.config:UserWarning")


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


def _at_once(model, x, *arguments, **options):
    """What `Model.predict` yields for an array, without a dataset and its batches."""
    if not isinstance(x, np.ndarray):
        return _predict(model, x, *arguments, **options)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, training=False))


_predict = keras.Model.predict


@pytest.fixture(scope="module")
def nothing_is_compiled():
    """For files whose models compute a few batches each: tracing them would take most of the time.

    That compiled functions compute the same is proven elsewhere, and by the files that train.
    """
    import tensorflow as tf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "predict", _at_once)
        tf.config.run_functions_eagerly(True)
        yield
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def nothing_is_optimized():
    """Turns TensorFlow's optimizer of graphs off, for files that train many models a little.

    The optimizer takes a third of the time of such a training. Files that infer or export keep it.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
