"""Shifted images are crops of padded ones, for every border."""

import cifar10
import numpy as np
import pytest
import tensorflow as tf

SHIFTS = np.int32([(down, right) for down in (-4, 0, 3) for right in (-2, 0, 4)])


@pytest.mark.parametrize(
    ("border", "mode"), [("black", "constant"), ("edge", "edge"), ("reflect", "reflect")]
)
def test_a_shift_is_a_crop_of_the_padded_image(border, mode):
    images = np.random.default_rng(0).integers(1, 256, (len(SHIFTS), 32, 32, 3)).astype(np.uint8)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode=mode)
    shifted = cifar10._shifted(tf.constant(images), tf.constant(SHIFTS), border).numpy()
    for image, whole, (down, right) in zip(shifted, padded, SHIFTS, strict=True):
        crop = whole[4 + down : 36 + down, 4 + right : 36 + right]
        np.testing.assert_array_equal(image, crop)
