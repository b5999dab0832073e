"""A study of seconds: digits of 8x8 pixels, for the tests of the queue.

`PAUSE` in the environment makes every backup take that long between its two files, so that a test
can kill it there.
"""

import os
import time

import keras
import numpy as np
import study
import tensorflow as tf
from sklearn.datasets import load_digits
from study import Variant
from task import Recipe, Task

import keras_qat

layers = keras.layers

BATCH, STEPS = 16, 40


def images(split):
    digits = load_digits()
    pixels = digits.images[..., None].astype(np.float32)
    part = {"train": slice(640), "test": slice(640, 840)}[split]
    return pixels[part], digits.target[part]


def batches(seed, first_epoch):
    x, y = (tf.constant(each) for each in images("train"))

    def epoch_of(epoch):
        order = tf.random.experimental.stateless_shuffle(tf.range(640), [seed, epoch])
        return tf.data.Dataset.from_tensor_slices(order).batch(BATCH)

    epochs = tf.data.Dataset.range(first_epoch, 1000).map(lambda epoch: tf.cast(epoch, tf.int32))
    return epochs.flat_map(epoch_of).map(
        lambda places: (tf.gather(x, places), tf.gather(y, places))
    )


def float_model():
    keras.utils.set_random_seed(7)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


TASK = Task(
    name="digits",
    float_model=float_model,
    images=images,
    batches=batches,
    steps=lambda: STEPS,
    recipes={4: Recipe(6, 2e-3)},
    from_logits=True,
    validates=False,
    reestimates=True,
)
VARIANTS = {
    "gdnsq": Variant(
        lambda bits: keras_qat.GDNSQConfig(weight_bits=bits, activation_bits=bits, start_bits=8)
    ),
    "pege": Variant(lambda bits: keras_qat.PEGEConfig(weight_bits=bits, activation_bits=bits)),
}


def _pausing(save_weights):
    def save_and_pause(self, *args, **kwargs):
        save_weights(self, *args, **kwargs)
        time.sleep(float(os.environ.get("PAUSE", "0")))

    return save_and_pause


if __name__ == "__main__":
    keras.Model.save_weights = _pausing(keras.Model.save_weights)
    study.run(VARIANTS, TASK)
