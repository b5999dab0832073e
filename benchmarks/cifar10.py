"""CIFAR-10 and CIFAR-100 for studies: images, and batches that depend on seed and epoch alone."""

from __future__ import annotations

import functools
import pathlib
from typing import Literal

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags

SHARED_DIR = flags.DEFINE_string(
    "shared_dir",
    str(pathlib.Path(__file__).resolve().parents[2] / "shared"),
    "Folder with data/tfds (data sets of tensorflow-datasets) and models.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "tensorflow-datasets folder; by default the one in --shared_dir."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Batch size.", 1)

VALIDATION_IMAGES = 5000
_SIZE = 32

Images = tuple[np.ndarray, np.ndarray]
Border = Literal["black", "edge", "reflect"]


def shared(*parts: str) -> pathlib.Path:
    """A path inside --shared_dir."""
    return pathlib.Path(SHARED_DIR.value).joinpath(*parts)


def data_dir() -> str:
    """The folder of tensorflow-datasets."""
    return DATA_DIR.value or str(shared("data", "tfds"))


@functools.cache
def _pixels(split: str, name: str) -> Images:
    dataset = tfds.load(
        name,
        split=split,
        data_dir=data_dir(),
        download=False,
        batch_size=-1,
        as_supervised=True,
    )
    pixels, labels = tfds.as_numpy(dataset)
    return pixels, labels


def pixels(split: str, name: str = "cifar10") -> Images:
    """uint8 images (N, 32, 32, 3), and labels.

    Args:
        split: "test", "all" for the 50,000 training images, "validation" for the last 5,000 of
            them, and "train" for the others.
        name: "cifar10", or "cifar100".
    """
    if split == "test":
        return _pixels("test", name)
    images, labels = _pixels("train", name)
    first = len(images) - VALIDATION_IMAGES
    part = {"all": slice(None), "train": slice(first), "validation": slice(first, None)}[split]
    return images[part], labels[part]


def batches_per_epoch(split: str, name: str = "cifar10") -> int:
    """The number of full batches in an epoch."""
    return len(pixels(split, name)[0]) // BATCH_SIZE.value


def training_batches(
    split: str, seed: int, first_epoch: int, reach: int, border: Border, name: str = "cifar10"
) -> tf.data.Dataset:
    """Endless batches of float32 images from 0 to 255 and labels, from an epoch on.

    The order of the images, their shifts and their flips depend on the seed and the epoch alone.
    So a run that resumes sees the same batches as an uninterrupted run.

    Args:
        split: a split of the training images, see `pixels`.
        seed: seed of the run.
        first_epoch: the epoch of the first batch.
        reach: largest shift along each axis, in pixels.
        border: how pixels beyond the border are filled: with 0, from the edge, or by reflection.
        name: "cifar10", or "cifar100".
    """
    images, labels = (tf.constant(each) for each in pixels(split, name))
    count, steps, size = len(images), batches_per_epoch(split, name), BATCH_SIZE.value

    def epoch_of(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )
        batches = tf.data.Dataset.from_tensor_slices(order[: steps * size]).batch(size)
        return batches.enumerate(start=epoch * steps)

    def batch_of(step, places):
        draws = tf.random.stateless_uniform(
            (size, 3), tf.stack([tf.cast(seed + 1, tf.int64), step]), maxval=1.0
        )
        shifts = tf.cast(tf.floor(draws[:, :2] * (2 * reach + 1)), tf.int32) - reach
        shifted = _shifted(tf.gather(images, places), shifts, border)
        flips = draws[:, 2, None, None, None] < 0.5
        flipped = tf.where(flips, tf.reverse(shifted, axis=[2]), shifted)
        return tf.cast(flipped, tf.float32), tf.gather(labels, places)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
    return epochs.flat_map(epoch_of).map(batch_of, num_parallel_calls=1).prefetch(2)


def _shifted(images: tf.Tensor, shifts: tf.Tensor, border: Border) -> tf.Tensor:
    for axis in (0, 1):
        places = tf.range(_SIZE)[None] + shifts[:, axis, None]
        last = _SIZE - 1
        if border == "reflect":
            places = last - tf.abs(last - tf.abs(places))
        nearest = tf.clip_by_value(places, 0, last)
        images = tf.gather(images, nearest, axis=axis + 1, batch_dims=1)
        if border == "black":
            shape = (-1, _SIZE, 1, 1) if axis == 0 else (-1, 1, _SIZE, 1)
            images *= tf.cast(tf.reshape(places == nearest, shape), images.dtype)
    return images


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(outputs, axis=-1) == labels))
