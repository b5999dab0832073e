"""Runs a study of benchmarks/ with a few made-up images instead of a data set.

    python made_up_study.py prepare cifar10 FOLDER
    python made_up_study.py benchmarks/vgg_small.py --data_dir=FOLDER [flags of the study]

tensorflow-datasets itself writes its records into the folder, and reads them from there. A class is
a color and a place.
"""

import runpy
import sys

import cifar10
import numpy as np
import study
import tensorflow_datasets as tfds

COUNTS = {
    "cifar10": {"train": 72, "test": 16},
    "cifar100": {"train": 72, "test": 16},
    "imagenet2012": {"train": 8, "validation": 4},
}
CLASSES = 10
VALIDATION_IMAGES = 8
REESTIMATION_BATCHES = 2


def images(count, size):
    """uint8 images (count, size, size, 3), and labels."""
    generator = np.random.default_rng(count)
    labels = np.arange(count) % CLASSES
    pixels = generator.integers(0, 60, (count, size, size, 3))
    part = size // 4
    for image, label in zip(pixels, labels, strict=True):
        row, column = part * (label // 4), part * (label % 4)
        image[row : row + part, column : column + part, label % 3] += 180
    return pixels.astype(np.uint8), labels


def examples(name, split):
    """What the builder of a data set hands on for one split."""
    count = COUNTS[name][split]
    pixels, labels = images(count, 300 if name == "imagenet2012" else 32)
    for place, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        if name == "imagenet2012":
            yield place, {"image": image, "label": int(label), "file_name": f"{place}.jpeg"}
        elif name == "cifar100":
            yield place, {"id": str(place), "image": image, "label": int(label), "coarse_label": 0}
        else:
            yield place, {"id": str(place), "image": image, "label": int(label)}


def prepare(name, folder):
    """Lets tensorflow-datasets write a data set of made-up images."""
    builder = tfds.builder(name, data_dir=folder)
    builder._split_generators = lambda manager: {
        split: examples(name, split) for split in COUNTS[name]
    }
    builder.download_and_prepare()


if __name__ == "__main__":
    del sys.argv[0]
    if sys.argv[0] == "prepare":  # in a process of its own: a study sets threads before all else
        prepare(*sys.argv[1:])
    else:
        cifar10.VALIDATION_IMAGES = VALIDATION_IMAGES
        study.REESTIMATION_BATCHES = REESTIMATION_BATCHES
        runpy.run_path(sys.argv[0], run_name="__main__")
