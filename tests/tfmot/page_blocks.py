"""Runs TFMOT's blocks of the page about TFMOT, in Keras 2. They leave the folder `page`.

TF_USE_LEGACY_KERAS=1 python -m tests.tfmot.page_blocks FOLDER
"""

import os
import pathlib
import re
import sys

import numpy as np
import tf_keras

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "coming_from_tfmot.md"


def main(folder):
    os.chdir(folder)
    layers = tf_keras.layers
    names = {
        "model": tf_keras.Sequential(
            [
                layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 1), name="conv_1"),
                layers.Flatten(name="flatten"),
                layers.Dense(3, name="head"),
            ]
        ),
        "loss": tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "x": np.random.default_rng(0).normal(size=(640, 8, 8, 1)).astype(np.float32),
        "y": np.arange(640) % 3,
    }
    for block in re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, PAGE.name, "exec"), names)


if __name__ == "__main__":
    main(sys.argv[1])
