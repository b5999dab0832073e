"""Every step of *Coming from TFMOT* runs, and its transfer trains as the float model does."""

import pathlib
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_readme import prepared_names, python_blocks

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "coming_from_tfmot.md"
FILES = ROOT / "tests" / "tfmot" / "page"
"""The files that the page's other environment leaves."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that are left after the whole page, the folder, and what the flow had made."""
    pytest.importorskip("tensorboard", reason="the extra keras_qat[examples] is not installed")
    folder, names, flow = tmp_path_factory.mktemp("page"), prepared_names(), {}
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, block in enumerate(python_blocks(PAGE)):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
            if number == 1:
                flow = dict(names)
    return SimpleNamespace(folder=folder, flow=SimpleNamespace(**flow), last=names)


@pytest.mark.slow
def test_every_block_runs_and_leaves_its_files(page):
    assert page.last["report"].mismatches == 0
    files = ["best.tflite", "model.tflite", "pruned.tflite", "clustered.tflite", "best.keras"]
    assert [name for name in files if not (page.folder / name).exists()] == []


@pytest.mark.slow
def test_layers_have_their_names_and_frozen_ones_stay(page):
    qmodel, base, transfer = page.flow.qmodel, page.flow.base, page.flow.transfer
    own = [each for each in (*base.layers, *transfer.layers) if each is not base]
    gone = (keras.layers.InputLayer, keras.layers.Rescaling)  # it is in the kernel of the stem
    kept = [each for each in own if not isinstance(each, gone)]
    assert len(kept) >= 12
    for layer in kept:
        found = qmodel.get_layer(layer.name)
        assert found.trainable == layer.trainable
        if layer in base.layers and layer.weights:
            inner = getattr(found, "layer", found)
            for mine, theirs in zip(inner.weights[:2], layer.weights[:2], strict=True):
                np.testing.assert_array_equal(mine, theirs)  # they have not been trained


def tags(folder):
    """The scalars that TensorBoard shows, by run."""
    found = {}
    for path in sorted(folder.rglob("*.v2")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            run = found.setdefault(path.parent.name, {})
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    run.setdefault(value.tag, []).append(event.step)
    return found


@pytest.mark.slow
def test_callbacks_and_logs_are_as_in_float(page):
    flow = page.flow
    assert set(flow.history.history) == set(flow.float_history.history)
    assert {"learning_rate", "val_accuracy"} <= set(flow.history.history)
    assert flow.history.epoch == flow.float_history.epoch == [0, 1]
    logs = page.folder / "logs"
    in_float, quantized = tags(logs / "transfer"), tags(logs / "quantized")
    assert in_float == quantized
    assert "epoch_accuracy" in in_float["train"]
    assert "evaluation_loss_vs_iterations" in in_float["validation"]
    best = max(flow.history.history["val_accuracy"])
    saved = keras.models.load_model(page.folder / "best.keras")
    assert saved.evaluate(flow.dataset.take(2), verbose=0)[1] == pytest.approx(best, abs=1e-6)
