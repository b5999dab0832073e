"""Tasks on CIFAR-10 and CIFAR-100 that train on 45,000 images, 5,000 others validate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import cifar10
import keras
import numpy as np
import papers
import tensorflow as tf
from float_training import FloatTraining
from task import Images, Task


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of 32x32 images, and how its pixels are normalized.

    Attributes:
        name: its name in tensorflow-datasets.
        title: its name for readers.
        classes: number of classes.
        mean: mean of each channel, for pixels from 0 to 1.
        deviation: standard deviation of each channel.
    """

    name: str
    title: str
    classes: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def normalized(self, pixels):
        """`(x / 255 - mean) / deviation`."""
        scaled = pixels / np.float32(255.0)
        return (scaled - np.float32(self.mean)) / np.float32(self.deviation)

    def images(self, split: str) -> Images:
        """Normalized images and labels: "train", "validation" or "test"."""
        return _images(self, split)

    def batches(self, seed: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Endless batches: reflected borders of 4, crops of 32x32 and flips."""
        batches = cifar10.training_batches("train", seed, first_epoch, 4, "reflect", self.name)
        return batches.map(lambda pixels, labels: (self.normalized(pixels), labels))

    def steps(self) -> int:
        """The number of batches in an epoch."""
        return cifar10.batches_per_epoch("train", self.name)


@functools.cache
def _images(data: Data, split: str) -> Images:
    pixels, labels = cifar10.pixels(split, data.name)
    return data.normalized(pixels.astype(np.float32)), labels


CIFAR10 = Data("cifar10", "CIFAR-10", 10, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
CIFAR100 = Data("cifar100", "CIFAR-100", 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def task(name: str, data: Data, epochs: Mapping[int, int]) -> Task:
    """A network of the papers on these images; `epochs` maps bits to epochs."""
    return Task(
        name=f"{name} on {data.title}",
        float_model=papers.float_model,
        images=data.images,
        batches=data.batches,
        steps=data.steps,
        recipes=papers.recipes(epochs),
        from_logits=True,
        validates=True,
        reestimates=True,
    )


def float_training(
    network: Callable[[int], keras.Model],
    data: Data,
    epochs: int,
    learning_rate: float,
    decay: float,
) -> FloatTraining:
    """The training of the float model of such a task."""
    return FloatTraining(
        network=lambda: network(data.classes),
        images=data.images,
        batches=data.batches,
        steps=data.steps,
        epochs=epochs,
        rate={
            "learning_rate": learning_rate,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": decay,
        },
    )
