"""A ConvNeXt-like network: stochastic depth and LayerScale, as own layers."""

import keras
import numpy as np
from keras import ops

from tests.end_to_end.users.deployed import coloured_images, exported, trained

layers = keras.layers


@keras.saving.register_keras_serializable(package="droppath")
class DropPath(layers.Layer):
    """Leaves out the branch of an example at random, in training alone."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x, training=None):
        if not training:
            return x
        keep = keras.random.uniform((ops.shape(x)[0], 1, 1, 1), seed=self.seed) >= self.rate
        return x * ops.cast(keep, x.dtype) / (1.0 - self.rate)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="droppath")
class LayerScale(layers.Layer):
    """A learned factor for each channel of a branch."""

    def build(self, shape):
        self.gamma = self.add_weight(
            shape=(shape[-1],),
            initializer=keras.initializers.Constant(0.1),
            regularizer=keras.regularizers.L2(1e-4),
            name="gamma",
        )

    def call(self, x):
        return x * self.gamma


def network():
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(12, 4, strides=4, name="stem")(inputs)
    for index in range(2):
        y = layers.DepthwiseConv2D(3, padding="same")(x)
        y = layers.BatchNormalization()(y)
        y = layers.Conv2D(24, 1, activation="gelu")(y)
        y = LayerScale(name=f"scale_{index}")(layers.Conv2D(12, 1)(y))
        x = layers.Add()([x, DropPath(0.3, name=f"drop_{index}")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))


def test_branches_drop_in_training_and_scales_train(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = coloured_images(16)
    model = network()
    qmodel = trained(model, x, y, rate=1e-2, loss="sparse_categorical_crossentropy")
    outputs = [np.asarray(qmodel(x[:32], training=True)) for _ in range(2)]
    assert np.any(outputs[0] != outputs[1])
    np.testing.assert_array_equal(qmodel(x[:32]), qmodel(x[:32]))
    gammas = [each for each in qmodel.trainable_variables if "scale_0" in each.path]
    kept = [each for each in gammas if each.shape == (12,) and "quantizer" not in each.path]
    assert kept
    assert np.any(np.asarray(kept[0]) != np.asarray(model.get_layer("scale_0").gamma))
    exported(qmodel, x, tmp_path)
