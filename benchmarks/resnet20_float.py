"""Trains a float ResNet-20 that has not seen the validation images.

    python benchmarks/resnet20_float.py --only=float,32,0

The float model of GDNSQ's authors has seen all 50,000 training images, so nothing can be chosen
from it by validation. This model has the same layers and new weights, and trains on 45,000 images.
The other 5,000 can choose recipes. The trained model is kept next to its result.

The recipe was written down before the first run: SGD with Nesterov momentum 0.9, and a rate that
falls from 0.1 along half a cosine over 200 epochs. Batches have 128 images. Decoupled weight decay
is 1e-3, which with this momentum is the usual L2 of 1e-4. The last epoch counts.
"""

from __future__ import annotations

import sys

import cifar10
import keras
import resnet20
import study
import tensorflow as tf
from absl import app
from epoch_backup import OutOfTimeError
from float_training import FloatTraining


def network() -> keras.Model:
    """The authors' layers with new weights."""
    return keras.models.clone_model(resnet20.float_model())


def batches(seed: int, first_epoch: int) -> tf.data.Dataset:
    """Endless batches of the 45,000 images."""
    images = cifar10.training_batches("train", seed, first_epoch, resnet20.REACH, "reflect")
    return images.map(lambda pixels, labels: (resnet20.normalized(pixels), labels))


def images(split: str) -> cifar10.Images:
    """Normalized images and labels."""
    pixels, labels = cifar10.pixels(split)
    return resnet20.normalized(pixels.astype("float32")), labels


TRAINING = FloatTraining(
    network=network,
    images=images,
    batches=batches,
    steps=lambda: cifar10.batches_per_epoch("train"),
    epochs=200,
    rate={"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
)


def main(argv: list[str]) -> None:
    name, bits, seed = study.ONLY.value.split(",")
    run = study.Run(name, int(bits), int(seed))
    try:
        TRAINING.execute(run, run.folder / f"{run.name}.keras")
    except OutOfTimeError as stopped:
        print(stopped)
        sys.exit(study.OUT_OF_TIME)


if __name__ == "__main__":
    app.run(main)
