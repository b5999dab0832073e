"""The setting of the papers: ResNet-20 on CIFAR-10, from the float model of GDNSQ's authors.

    python benchmarks/run_queue.py --minutes=60

does the runs of `benchmarks/queue.txt`. Most of them belong to this study.
`python benchmarks/resnet20.py --only=gdnsq,4,0` does one run here. `benchmarks/study.py` says how a
study runs. `benchmarks/resnet20_page.py` writes its page.

The float model has seen all 50,000 training images: its accuracy on a validation split of them is
97 %, and 92.81 % on the test set. So nothing is chosen by images. Every run trains on all 50,000
images, and its last epoch counts. Its statistics of BatchNormalization are re-estimated from
augmented training batches, and the test set is read once.

The recipes were written down before the first run. GDNSQ's published code has RAdam at 0.002 with
batches of 1,000, for up to 1,000 epochs, and takes the best epoch on the test set. Here RAdam has
batches of 128, so its rate is 0.002 * sqrt(128 / 1000) = 0.0007. A run has as many epochs as a core
trains in hours to a day. GDNSQ has its planned schedule. The rate of other methods falls along half
a cosine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cifar10
import keras
import numpy as np
import study
import tensorflow as tf
from cifar10 import Images
from study import Variant
from task import Recipe, Task

import keras_qat
from keras_qat.optimizers import RAdam

MEAN = np.float32([0.4914, 0.4822, 0.4465])
STANDARD_DEVIATION = np.float32([0.247, 0.243, 0.261])
REACH = 4
_LEARNING_RATE = 7e-4
_EPOCHS = {4: 20, 3: 30, 2: 100, 1: 240}


def float_model() -> keras.Model:
    """The authors' model: 92.81 % on the test set. It ends in logits."""
    path = cifar10.shared("models", "resnet20_cifar10_layers.keras")
    return keras.models.load_model(path, compile=False)


def normalized(pixels):
    """`(x / 255 - mean) / standard deviation`, the inputs that the float model takes."""
    return (pixels / np.float32(255.0) - MEAN) / STANDARD_DEVIATION


@functools.cache
def images(split: str) -> Images:
    """Normalized images and labels: "train" for all 50,000, or "test"."""
    pixels, labels = cifar10.pixels("all" if split == "train" else split)
    return normalized(pixels.astype(np.float32)), labels


def training_batches(seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless batches of all 50,000 images: reflected borders of 4, crops of 32x32 and flips."""
    batches = cifar10.training_batches("all", seed, first_epoch, REACH, "reflect")
    return batches.map(lambda pixels, labels: (normalized(pixels), labels))


TASK = Task(
    name="ResNet-20 on CIFAR-10",
    float_model=float_model,
    images=images,
    batches=training_batches,
    steps=lambda: cifar10.batches_per_epoch("all"),
    recipes={bits: Recipe(epochs, _LEARNING_RATE, RAdam) for bits, epochs in _EPOCHS.items()},
    from_logits=True,
    validates=False,
    reestimates=True,
)

_Config = Callable[[int], keras_qat.QuantizationConfig]


def _with_bits(config: type[keras_qat.QuantizationConfig]) -> _Config:
    return lambda bits: config(weight_bits=bits, activation_bits=bits)


VARIANTS = {
    "gdnsq": Variant(_with_bits(keras_qat.GDNSQConfig)),
    "gdnsq_distilled": Variant(_with_bits(keras_qat.GDNSQConfig), distills=True),
    "lsq": Variant(_with_bits(keras_qat.LSQConfig)),
    "pege": Variant(_with_bits(keras_qat.PEGEConfig)),
}

if __name__ == "__main__":
    study.run(VARIANTS, TASK)
