"""The task that studies share: MLPerf Tiny's ResNet-8 on CIFAR-10."""

from __future__ import annotations

import functools
import pathlib

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
VALIDATION_IMAGES = 5000
CALIBRATION_IMAGES = 512

MODEL = flags.DEFINE_string(
    "model", str(SHARED / "models" / "resnet8_cifar10.keras"), "The trained float model."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", str(SHARED / "data" / "tfds"), "tensorflow-datasets folder that holds CIFAR-10."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Batch size.", 1)

Images = tuple[np.ndarray, np.ndarray]


def float_model() -> keras.Model:
    """The start of every run."""
    return keras.models.load_model(MODEL.value, compile=False)


@functools.cache
def images(split: str) -> Images:
    """Float32 images (N, 32, 32, 3) from 0 to 255, and labels: "train", "validation" or "test".

    The last 5,000 training images validate.
    """
    dataset = tfds.load(
        "cifar10",
        split="test" if split == "test" else "train",
        data_dir=DATA_DIR.value,
        download=False,
        batch_size=-1,
        as_supervised=True,
    )
    pixels, labels = tfds.as_numpy(dataset)
    first = len(pixels) - VALIDATION_IMAGES
    part = {"train": slice(first), "validation": slice(first, None), "test": slice(None)}[split]
    return pixels[part].astype(np.float32), labels[part]


def training_batches(seed: int) -> tf.data.Dataset:
    """Shuffled batches, randomly flipped, and shifted by up to 3 pixels with the edges repeated.

    So was the float model trained: of images with a black border it gets 80 % right, of these 91 %,
    and a teacher teaches its errors too. Order and shifts of an epoch follow from the seed alone.
    """
    pixels, labels = images("train")
    reach = 3

    def augment(image, label, random_pair):
        shifts = tf.cast(random_pair % (2 * reach + 1), tf.int32) - reach
        rows, columns = (tf.clip_by_value(tf.range(32) + shifts[axis], 0, 31) for axis in (0, 1))
        image = tf.gather(tf.gather(tf.cast(image, tf.float32), rows, axis=0), columns, axis=1)
        return tf.image.stateless_random_flip_left_right(image, random_pair + 1), label

    dataset = tf.data.Dataset.from_tensor_slices((pixels.astype(np.uint8), labels))
    dataset = dataset.shuffle(len(pixels), seed=seed)
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    dataset = tf.data.Dataset.zip(dataset, numbers)
    dataset = dataset.map(lambda pair, numbers: augment(*pair, numbers), num_parallel_calls=2)
    return dataset.batch(BATCH_SIZE.value, drop_remainder=True).prefetch(2)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(outputs, axis=-1) == labels))
