"""A task of studies: MLPerf Tiny's ResNet-8 on CIFAR-10."""

from __future__ import annotations

import functools

import cifar10
import keras
import numpy as np
import tensorflow as tf
from absl import flags
from cifar10 import BATCH_SIZE, VALIDATION_IMAGES, Images, accuracy
from task import CALIBRATION_IMAGES, Recipe, Task

__all__ = ["BATCH_SIZE", "CALIBRATION_IMAGES", "VALIDATION_IMAGES", "accuracy"]

MODEL = flags.DEFINE_string("model", None, "Trained float model; default in --shared_dir.")

REACH = 3


def float_model() -> keras.Model:
    """The float model from which every run starts."""
    path = MODEL.value or cifar10.shared("models", "resnet8_cifar10.keras")
    return keras.models.load_model(path, compile=False)


@functools.cache
def images(split: str) -> Images:
    """Float32 images (N, 32, 32, 3) from 0 to 255, and labels: "train", "validation" or "test".

    The last 5,000 training images validate.
    """
    pixels, labels = cifar10.pixels(split)
    return pixels.astype(np.float32), labels


def training_batches(seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless batches, randomly flipped, and shifted by up to 3 pixels with the edges repeated.

    The float model was trained in this way. Its accuracy is 80 % on images with a black border and
    91 % on these. A teacher teaches its errors too.
    """
    return cifar10.training_batches("train", seed, first_epoch, REACH, "edge")


TASK = Task(
    name="ResNet-8 on CIFAR-10",
    float_model=float_model,
    images=images,
    batches=training_batches,
    steps=lambda: cifar10.batches_per_epoch("train"),
    recipes={
        bits: Recipe(epochs=5 if bits == 4 else 8, learning_rate=1e-3) for bits in range(1, 9)
    },
    from_logits=False,
    validates=True,
)
