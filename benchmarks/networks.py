"""The networks of the papers' tables, in plain Keras. All of them end in logits."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

layers = keras.layers


def _unit(x, filters: int, name: str, size: int = 3, strides: int = 1, relu: bool = True):
    """A convolution without bias, BatchNormalization, and a ReLU."""
    conv = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, name=name)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(conv(x))
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _vgg(name: str, stages: Sequence[Sequence[int]], classes: int) -> keras.Model:
    """Stages of 3x3 convolutions, each of them pooled, and one Dense layer."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    for stage, widths in enumerate(stages, start=1):
        for place, filters in enumerate(widths, start=1):
            x = _unit(x, filters, f"conv{stage}_{place}")
        x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(classes, name="linear")(x), name=name)


def vgg_small(classes: int = 10) -> keras.Model:
    """VGG-small: six convolutions, 4,663,690 parameters for 10 classes."""
    return _vgg("vgg_small", [(128, 128), (256, 256), (512, 512)], classes)


def vgg16_bn(classes: int = 10) -> keras.Model:
    """VGG16 with BatchNormalization for 32x32 images, with one Dense layer at the end."""
    stages = [(64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3]
    return _vgg("vgg16_bn", stages, classes)


def resnet20(classes: int = 10) -> keras.Model:
    """ResNet-20 for 32x32 images. Its shortcuts have no weights.

    Where the images shrink, a shortcut takes every second pixel and pads channels with 0, as in the
    float model of GDNSQ's authors.
    """
    inputs = keras.Input((32, 32, 3), name="image")
    x = _unit(inputs, 16, "conv1")
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(3):
            name, strides = f"layer{stage}_{block}", 2 if stage > 1 and block == 0 else 1
            y = x
            if strides > 1:  # as PyTorch pads, which Keras' "same" does not
                y = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
                conv = layers.Conv2D(filters, 3, 2, use_bias=False, name=f"{name}_conv1")
                y = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(conv(y))
                y = layers.ReLU(name=f"{name}_conv1_relu")(y)
                added = filters // 4
                x = ops.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (added, added)))
            else:
                y = _unit(x, filters, f"{name}_conv1")
            y = _unit(y, filters, f"{name}_conv2", relu=False)
            x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([y, x]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="linear")(x), name="resnet20")


def resnet18(classes: int = 1000, size: int = 224) -> keras.Model:
    """ResNet-18, for normalized images of 224x224 pixels."""
    inputs = keras.Input((size, size, 3), name="image")
    x = _unit(inputs, 64, "conv1", size=7, strides=2)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name, strides = f"layer{stage}_{block}", 2 if stage > 1 and block == 0 else 1
            y = _unit(x, filters, f"{name}_conv1", strides=strides)
            y = _unit(y, filters, f"{name}_conv2", relu=False)
            if strides > 1:
                x = _unit(x, filters, f"{name}_shortcut", size=1, strides=2, relu=False)
            x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([y, x]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="linear")(x), name="resnet18")
