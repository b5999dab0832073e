"""ShuffleNetV2: channels are split, and shuffled by a reshape and a transpose."""

import keras
from keras import ops

from tests.end_to_end.users.deployed import coloured_images, exported, trained

layers = keras.layers


def shuffled(x, groups=2):
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, groups, channels // groups))
    return ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, height, width, channels))


def branch(x, channels, strides=1):
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False)(x)))
    x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False)(x)))


def unit(x):
    kept, taken = ops.split(x, 2, axis=-1)
    return shuffled(layers.Concatenate()([kept, branch(taken, kept.shape[-1])]))


def down(x, channels):
    left = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
    left = layers.Conv2D(channels, 1, use_bias=False)(layers.BatchNormalization()(left))
    left = layers.ReLU()(layers.BatchNormalization()(left))
    return shuffled(layers.Concatenate()([left, branch(x, channels, strides=2)]))


def shufflenet():
    inputs = keras.Input((24, 24, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs)
    for channels in (8, 12):
        x = unit(down(x, channels))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))


def test_it_splits_and_shuffles(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = coloured_images(24)
    loss = "sparse_categorical_crossentropy"
    qmodel = trained(shufflenet(), x, y, rate=1e-2, loss=loss)
    for report in exported(qmodel, x, tmp_path).values():
        assert [output.name for output in report.comparison.outputs] == ["classes"]
