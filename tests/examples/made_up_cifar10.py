"""Runs an example with made-up images instead of the download of CIFAR-10.

    python made_up_cifar10.py example.py [flags of the example]

Everything else of tensorflow-datasets is real: it finds no prepared data set, asks for the images,
writes its records into --data_dir, and reads the splits from there. A class is a color and a place.
"""

import runpy
import sys

import numpy as np
import tensorflow_datasets as tfds

COUNTS = {"train": 640, "test": 200}
CLASSES = 10


def images(split):
    """uint8 images (N, 32, 32, 3), and labels."""
    generator = np.random.default_rng(len(split))
    labels = np.arange(COUNTS[split]) % CLASSES
    pixels = generator.integers(0, 60, (labels.size, 32, 32, 3))
    for image, label in zip(pixels, labels, strict=True):
        row, column = 8 * (label // 4) + 4, 8 * (label % 4)
        image[row : row + 8, column : column + 8, label % 3] += 180
    return pixels.astype(np.uint8), labels


def split_generators(builder, manager):
    """Takes the place of the builder's own method, which downloads."""
    found = {split: zip(*images(split), strict=True) for split in COUNTS}
    return {
        split: (
            (place, {"id": f"{split}_{place:05d}", "image": image, "label": int(label)})
            for place, (image, label) in enumerate(examples)
        )
        for split, examples in found.items()
    }


if __name__ == "__main__":
    tfds.image_classification.Cifar10._split_generators = split_generators
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
