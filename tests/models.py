"""Small networks that several tests share."""

import keras
import numpy as np

layers = keras.layers


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights and BatchNormalization statistics as after training: nothing at its initial value."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            channels = layer.moving_mean.shape[0]
            gains, offsets = rng.normal(1.0, 0.6, channels), rng.normal(0.0, 0.3, channels)
            if layer.scale:
                layer.gamma.assign(gains)  # some are negative
            if layer.center:
                layer.beta.assign(offsets)
            layer.moving_mean.assign(rng.normal(0.0, 0.3, channels))
            layer.moving_variance.assign(rng.uniform(0.3, 2.0, channels))
        elif hasattr(layer, "bias") and layer.bias is not None:
            layer.bias.assign(rng.normal(0.0, 0.2, layer.bias.shape))
    return model


def residual_network() -> keras.Model:
    """A residual Add, a depthwise-separable block, pooling and a softmax head."""
    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    shortcut = x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="conv_bn")(x)
    x = layers.Add(name="add")([shortcut, x])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.SeparableConv2D(12, 3, strides=2, padding="same", name="separable")(x)
    x = layers.BatchNormalization(name="separable_bn")(x)
    x = layers.ReLU(6.0, name="separable_relu6")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    outputs = layers.Dense(5, activation="softmax", name="head")(x)
    return randomize(keras.Model(inputs, outputs, name="residual"))


def images(count: int = 64, shape: tuple[int, ...] = (12, 12, 3), seed: int = 0) -> np.ndarray:
    """Standard normal pixels: signed inputs."""
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def depthwise_network() -> keras.Model:
    """A convolution, a depthwise one and a dense head for 8x8 images: trains in moments."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="conv_bn")(x)
    x = layers.ReLU(name="conv_relu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    outputs = layers.Dense(5, name="head")(layers.Flatten(name="flatten")(x))
    return randomize(keras.Model(inputs, outputs, name="depthwise"))


def dense_network() -> keras.Model:
    """Three dense layers with a hidden width that trains in moments: 6 numbers in, 3 classes."""
    inputs = keras.Input((6,), name="numbers")
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    outputs = layers.Dense(3, activation="softmax", name="last")(x)
    return randomize(keras.Model(inputs, outputs, name="dense"))


def points(count: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of `dense_network` and labels that a linear model can tell."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype(np.float32)
    return x, np.argmax(x @ rng.normal(size=(6, 3)), axis=-1)
