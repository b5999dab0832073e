"""A subclassed model with a call and a training step of its own."""

import keras
import numpy as np
import tensorflow as tf

import keras_qat
from tests.end_to_end.users.deployed import coloured_images, exported

layers = keras.layers


class MixUp:
    """A training step on mixed examples, for any model."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        x = 0.8 * x + 0.2 * x[::-1]
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {**self.compute_metrics(x, y, y_pred), "mixed": tf.constant(0.2)}


class Classifier(MixUp, keras.Model):
    """Doubles what its layers say, so its layers alone are not the model."""

    def __init__(self):
        super().__init__(name="classifier")
        self.conv = layers.Conv2D(8, 3, activation="relu", name="conv")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        return 2.0 * self.head(self.pool(self.conv(x)))


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    return model


def test_the_call_and_the_step_are_kept(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = coloured_images(12)
    model = compiled(Classifier())
    assert "mixed" in model.fit(x, y, epochs=2, verbose=0).history
    qmodel = compiled(keras_qat.quantize(model, calibration_data=x))
    close = np.abs(qmodel.predict(x, verbose=0) - model.predict(x, verbose=0))
    assert close.max() < 0.05 * np.abs(model.predict(x, verbose=0)).max()
    assert "mixed" in qmodel.fit(x, y, epochs=2, verbose=0).history
    exported(qmodel, x, tmp_path)
