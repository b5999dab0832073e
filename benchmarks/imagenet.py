"""ImageNet for studies, read from tensorflow-datasets: batches depend on seed and epoch alone.

Images have 224x224 pixels, and are normalized. Batches stream from the disk. The 50,000 validation
images, which the papers report, are held in memory as uint8: 7.5 GB.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import cifar10
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from task import CALIBRATION_IMAGES

NAME = "imagenet2012"
SIZE = 224
MEAN = np.float32([123.675, 116.28, 103.53])
DEVIATION = np.float32([58.395, 57.12, 57.375])
_RESIZED = 256
_SHUFFLED = 8192
"""Images among which the next one is drawn, beside the random order of the files."""


def _read(split: str, seed: int | None = None) -> tf.data.Dataset:
    """Encoded images and labels; files in the order of a seed, if there is one."""
    config = tfds.ReadConfig(
        shuffle_seed=seed, shuffle_reshuffle_each_iteration=False, interleave_cycle_length=16
    )
    return tfds.load(
        NAME,
        split=split,
        data_dir=cifar10.data_dir(),
        download=False,
        as_supervised=True,
        shuffle_files=seed is not None,
        read_config=config,
        decoders={"image": tfds.decode.SkipDecoding()},
    )


class NormalizedOnDemand:
    """uint8 images whose slices are normalized."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, part: slice) -> np.ndarray:
        return normalized(self._pixels[part])


def normalized(pixels):
    """`(x - mean) / deviation` of pixels from 0 to 255."""
    return (pixels - MEAN) / DEVIATION


@functools.cache
def images(split: str) -> tuple[NormalizedOnDemand, np.ndarray]:
    """Images and labels: "test" for the validation split, "train" for the first 512.

    An image is resized to 256 pixels on its shorter side, and cut to 224x224 in its center.
    """
    dataset = _read("validation" if split == "test" else "train")
    if split == "train":
        dataset = dataset.take(CALIBRATION_IMAGES)
    found = [(_centered(image).numpy(), int(label)) for image, label in dataset]
    pixels, labels = zip(*found, strict=True)
    return NormalizedOnDemand(np.stack(pixels)), np.array(labels)


def _centered(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_jpeg(encoded, channels=3)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    size = tf.cast(tf.round(shape * _RESIZED / tf.reduce_min(shape)), tf.int32)
    image = tf.image.resize(image, size, antialias=True)
    image = tf.image.resize_with_crop_or_pad(image, SIZE, SIZE)
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


@functools.cache
def steps() -> int:
    """The number of batches in an epoch."""
    builder = tfds.builder(NAME, data_dir=cifar10.data_dir())
    return builder.info.splits["train"].num_examples // cifar10.BATCH_SIZE.value


def batches(seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless batches: a random tenth to all of an image, resized to 224x224, and flips."""

    def forever() -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        for epoch in itertools.count(first_epoch):
            yield from _epoch(seed, epoch)

    size = cifar10.BATCH_SIZE.value
    signature = (
        tf.TensorSpec((size, SIZE, SIZE, 3), tf.float32),
        tf.TensorSpec((size,), tf.int64),
    )
    return tf.data.Dataset.from_generator(forever, output_signature=signature)


def _epoch(seed: int, epoch: int) -> tf.data.Dataset:
    """The batches of one epoch."""
    own = np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1
    order = _read("train", int(own)).shuffle(
        _SHUFFLED, seed=int(own), reshuffle_each_iteration=False
    )

    def augmented(place, example):
        encoded, label = example
        draws = tf.stack([tf.cast(own, tf.int64), place])
        box_seed, flip_seed = draws, draws + tf.constant([0, 1 << 40], tf.int64)
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            tf.zeros((1, 0, 4)),
            seed=box_seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.1, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), antialias=True)
        return normalized(tf.image.stateless_random_flip_left_right(image, flip_seed)), label

    examples = order.enumerate().map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(cifar10.BATCH_SIZE.value, drop_remainder=True).prefetch(2)
