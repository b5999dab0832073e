"""TFMOT trains in a process of its own, and keras_qat goes on from there."""

import importlib.util

import pytest

import keras_qat
from tests.reliability.tiny import start
from tests.tfmot.checks import check_file, check_grids
from tests.tfmot.examples import SHAPES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="needs tensorflow-model-optimization, as the extra `tfmot` installs it",
)

LIVE = """
import sys
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
import keras_qat
from tests.tfmot.examples import SHAPES, examples
from tests.tfmot.trained_by_tfmot import dense

x = examples(SHAPES["dense"])[0][:64]
qmodel = tfmot.quantization.keras.quantize_model(dense())
qmodel.compile("sgd", "mse")
qmodel.fit(x, np.ones((64, 4)), epochs=1, verbose=0)
qmodel.save(sys.argv[1], include_optimizer=False)
live, stored = keras_qat.from_tfmot(qmodel), keras_qat.from_tfmot(sys.argv[1])
np.testing.assert_array_equal(live.predict(x, verbose=0), stored.predict(x, verbose=0))
expected = qmodel.predict(x, verbose=0)
print("difference", np.abs(live.predict(x, verbose=0) - expected).max() < 0.05)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("tfmot")
    script = "import sys, pathlib; from tests.tfmot.trained_by_tfmot import main; "
    script += "main(pathlib.Path(sys.argv[1]))"
    process = start(script, found, TF_USE_LEGACY_KERAS="1")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TFMOT has ranges of its own:UserWarning")
@pytest.mark.parametrize("name", SHAPES)
def test_a_model_that_was_just_trained_comes_along(name, folder, tmp_path):
    qmodel = keras_qat.from_tfmot(folder / f"{name}.h5")
    check_grids(qmodel, folder / f"{name}.tflite")
    check_file(name, qmodel, folder / f"{name}.tflite", tmp_path)


def test_a_model_in_the_same_process_comes_along(tmp_path):
    process = start(LIVE, tmp_path / "model.h5", TF_USE_LEGACY_KERAS="1")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "difference True" in said


@pytest.mark.slow
def test_the_blocks_of_the_page_that_need_tfmot_run(tmp_path):
    script = "import sys; from tests.tfmot.page_blocks import main; main(sys.argv[1])"
    process = start(script, tmp_path, TF_USE_LEGACY_KERAS="1")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert {each.name for each in tmp_path.iterdir()} == {"model.h5", "pruned.h5", "clustered.h5"}
