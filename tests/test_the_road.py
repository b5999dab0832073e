"""A reader follows `quantize` through the files that docs/architecture.md lists, and no others."""

import pathlib
import re
import sys

import keras
import numpy as np
import pytest

import keras_qat
import keras_qat.quantization.pipeline  # loaded before calls are counted
import keras_qat.saving
from tests.test_import_floors import ARCHITECTURE, ROOT, imports, module_name

layers = keras.layers
PACKAGE = ROOT / "keras_qat"


def road():
    """The files of the road, from the page."""
    page = ARCHITECTURE.read_text().partition("### Reading it")[2]
    block = re.search(r"```\n(.*?)```", page, re.DOTALL)[1]
    return [PACKAGE / line.split()[0] for line in block.splitlines()]


def resnet8():
    def block(x, filters, strides, relu=True):
        x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    inputs = keras.Input((16, 16, 3))
    x = block(inputs, 8, 1)
    for filters, strides in ((8, 1), (16, 2), (32, 2)):
        shortcut = layers.Conv2D(filters, 1, strides=strides)(x) if strides > 1 else x
        x = block(block(x, filters, strides), filters, 1, relu=False)
        x = layers.ReLU()(layers.Add()([shortcut, x]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


@pytest.fixture(scope="module")
def visited():
    """Every file of keras_qat in which `quantize` calls a function."""
    model = resnet8()
    data = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    files = set()
    sys.setprofile(lambda frame, event, argument: files.add(frame.f_code.co_filename))
    try:
        keras_qat.quantize(model, "gdnsq", calibration_data=data)
    finally:
        sys.setprofile(None)
    found = {pathlib.Path(name) for name in files if name.startswith(str(PACKAGE))}
    return found - {PACKAGE / "__init__.py"}


def test_the_road_has_at_most_eight_files_and_all_are_on_it(visited):
    assert len(road()) <= 8
    assert set(road()) <= visited


def test_what_is_off_the_road_calls_nothing_on_it(visited):
    """A leaf can be read alone: it imports no file of the road."""
    on_the_road = {module_name(path) for path in road()}
    for leaf in sorted(visited - set(road())):
        assert not imports(leaf) & on_the_road, leaf
