"""A model that trains a quantized model inside it: a distiller, SimCLR."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from keras_qat.callbacks import BitWidthMonitor, GDNSQSchedule
from tests.models import images

layers, ops = keras.layers, keras.ops
X = images(512, (6,))
Y = (X.sum(axis=1) > 0).astype(np.int32)


def student(config=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.Dense(8, activation="relu", name="middle")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x), name="student")
    config = keras_qat.GDNSQConfig(weight_bits=3, activation_bits=3) if config is None else config
    return keras_qat.quantize(model, config, calibration_data=X)


class Distiller(keras.Model):
    """Keras' example: a step of its own, which calls the student."""

    def __init__(self, student):
        super().__init__(name="distiller")
        self.student = student
        self.loss_of_student = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, x):
        return self.student(x)

    def loss_of(self, y, y_pred):
        return self.loss_of_student(y, y_pred)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.loss_of(y, self.student(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class WithTerms(Distiller):
    def loss_of(self, y, y_pred):
        return self.student.quantization_loss(super().loss_of(y, y_pred))


def fit(outer, *callbacks, epochs=30):
    outer.compile(keras.optimizers.AdamW(0.01, weight_decay=0.01))
    return outer.fit(X, Y, epochs=epochs, verbose=0, callbacks=list(callbacks)).history


def test_with_the_terms_in_its_loss_all_widths_meet_their_targets():
    inner = student()
    monitor = BitWidthMonitor(every=50)
    history = fit(WithTerms(inner), GDNSQSchedule(verbose=0), monitor)
    assert inner.meets_targets()
    assert inner.to_integer().ops
    assert history["assisted_widths"]
    assert monitor.history["tensors"]


def test_the_penalty_is_the_one_of_its_own_fit():
    inner = student()
    inner.bit_width_penalty.temperature.assign(0.5)
    inner.bit_width_penalty.mean_loss.assign(2.0)
    before = float(inner.quantization_loss(1.0))
    assert before > 1.5
    plain = student(keras_qat.LSQConfig())
    assert float(plain.quantization_loss(1.0)) == 1.0


def test_without_them_a_schedule_refuses_and_says_how():
    with pytest.raises(
        ValueError, match=r"'student' inside 'distiller'.*quantization_loss\(loss\)"
    ):
        fit(Distiller(student()), GDNSQSchedule(), epochs=1)


def test_without_them_and_without_a_schedule_it_warns():
    outer = Distiller(student())
    with pytest.warns(UserWarning, match=r"inside 'distiller', whose loss does not have its penal"):
        fit(outer, epochs=1)


def test_weight_decay_of_the_outer_optimizer_spares_grids():
    inner = student(keras_qat.LSQConfig())
    outer = Distiller(inner)
    outer.compile(keras.optimizers.AdamW(learning_rate=1e-9, weight_decay=1e6))
    before = [np.array(v) for q in inner.quantizers for v in q.trainable_variables]
    outer.fit(X, Y, verbose=0)
    after = [np.array(v) for q in inner.quantizers for v in q.trainable_variables]
    for now, then in zip(after, before, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-5)


def test_a_model_with_nothing_to_lose_trains_without_a_word():
    fit(Distiller(student(keras_qat.LSQConfig())), epochs=1)
