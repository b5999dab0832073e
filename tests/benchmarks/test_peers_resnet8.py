"""The peers start from the example's network and its weights. Their files see every image."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "examples")]


def printed(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(FOLDERS)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_network_computes_what_the_network_of_the_example_computes():
    """The example defines flags of the same names, so it is imported before flags exist."""
    code = """
import sys
import numpy as np
import cifar10_resnet8 as example
from absl import flags
for name in list(flags.FLAGS):
    if name in ("data_dir", "batch_size", "model", "epochs", "learning_rate", "seed"):
        delattr(flags.FLAGS, name)
import keras
import peers_resnet8 as peers

ours, theirs = example.build_model(), peers.network(keras)
for variable in ours.weights:
    variable.assign(np.random.default_rng(0).uniform(0.1, 0.2, variable.shape))
peers.copy_weights(ours, theirs)
images = np.random.default_rng(1).uniform(0, 1, (4, 32, 32, 3)).astype(np.float32)
print(theirs.count_params(), np.array_equal(ours(images), theirs(images)))
"""
    assert printed(code) == ["78666", "True"]


def test_every_image_goes_through_the_file(tmp_path):
    """A file that hands on its int8 inputs returns the codes of all images, batch by batch."""
    code = f"""
import pathlib
import keras
import numpy as np
from absl import flags
import keras_qat, tflite_export
import peers_resnet8 as peers
flags.FLAGS(["x"])

inputs = keras.Input((4, 4, 1))
outputs = keras.layers.Flatten()(inputs)
images = np.arange(-96, 96, dtype=np.float32).reshape(12, 4, 4, 1) / 96
model = keras_qat.quantize(keras.Model(inputs, outputs), calibration_data=images)
path = pathlib.Path({str(tmp_path)!r}) / "same.tflite"
tflite_export.export(model, path, samples=images, verbose=False)
codes = peers.predicted(path, images, batch=4)
graph = model.to_integer()
expected = graph.tensors[graph.inputs[0]].qparams.quantize(images).reshape(12, 16)
print(len(np.unique(codes)), np.array_equal(codes, expected))
"""
    assert printed(code) == ["192", "True"]
