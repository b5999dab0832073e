"""What a layer that a user wrote does in training alone, and its losses, live on in `fit`."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.quantized_layers import LivingBranch, LivingIdentity
from keras_qat.quantized_layers import living as living_module
from tests.models import images
from tests.quantization.passes.test_tracing import exported
from tests.untouched import untouched

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers, ops = keras.layers, keras.ops
X = images(64, (8,))


@keras.saving.register_keras_serializable(package="tests")
class DropPath(layers.Layer):
    """Leaves out whole examples, in training alone, with raw operations."""

    def __init__(self, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        if not training:
            return x
        shape = (ops.shape(x)[0], *(1,) * (len(x.shape) - 1))
        kept = keras.random.uniform(shape, seed=self.seed) >= self.rate
        return x * ops.cast(kept, x.dtype) / (1.0 - self.rate)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="tests")
class Louder(layers.Layer):
    def call(self, x, training=False):
        return x * (3.0 if training else 1.5)


@keras.saving.register_keras_serializable(package="tests")
class Penalty(layers.Layer):
    """The identity, with a loss."""

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


class LossInTraining(layers.Layer):
    def call(self, x, training=None):
        if training:
            self.add_loss(ops.mean(ops.square(x)))
        return x * 1.0


class Block(layers.Layer):
    """A residual block as users write one: dropout inside `if training`, and a DropPath."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.drop = layers.Dense(8, name="inner"), layers.Dropout(0.5)
        self.drop_path = DropPath(name="path")

    def call(self, x, training=None):
        y = ops.relu(self.dense(x))
        if training:
            y = self.drop(y, training=True)
        return x + self.drop_path(y, training=training)


def residual(own):
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="first")(inputs)
    y = own(layers.Dense(8, activation="relu", name="second")(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Add()([x, y])))


def sequence(own):
    return keras.Sequential([keras.Input((8,)), layers.Dense(8), own, layers.Dense(2)])


def changed(model):
    """The share of the examples that training changes."""
    a, b = (np.asarray(model(X, training=mode)) for mode in (True, False))
    return np.mean(np.abs(a - b).max(axis=-1) > 0.02)


def near(qmodel, model):
    expected = model.predict(X, verbose=0)
    return np.abs(qmodel.predict(X, verbose=0) - expected).max() < 0.05 * np.abs(expected).max()


def test_drop_path_draws_in_training_and_ships_as_nothing(tmp_path):
    model = residual(DropPath(name="own"))
    with untouched(model, X):
        qmodel = keras_qat.quantize(model, calibration_data=X)
        assert isinstance(qmodel.get_layer("own"), LivingIdentity)
        assert changed(qmodel) > 0.9
        qmodel.compile("adam", "mse")
        qmodel.fit(X, np.ones((64, 2)), epochs=2, verbose=0)
    report = exported(qmodel, X, tmp_path)
    assert report.comparison.flip_rate == 0.0
    assert not report.float_parts
    assert qmodel.plan.deploys


def test_the_random_state_is_saved_and_resumed(tmp_path, monkeypatch):
    qmodel = keras_qat.quantize(residual(DropPath(name="own")), calibration_data=X)
    qmodel.compile("adam", "mse")
    qmodel.fit(X, np.ones((64, 2)), verbose=0)
    qmodel.save(tmp_path / "net.keras")
    monkeypatch.setattr(living_module, "_ALIVE", {})
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    for _ in range(2):
        np.testing.assert_array_equal(qmodel(X, training=True), loaded(X, training=True))


def test_a_branch_runs_between_the_grids(tmp_path):
    qmodel = keras_qat.quantize(model := sequence(Louder(name="own")), calibration_data=X)
    assert isinstance(qmodel.get_layer("own"), LivingBranch)
    assert near(qmodel, model)
    assert changed(model) > 0.9
    assert changed(qmodel) > 0.9
    exported(qmodel, X, tmp_path)
    qmodel.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras_qat.load_model(tmp_path / "net.keras")(X), qmodel(X))


@pytest.mark.parametrize("kind", [Penalty, LossInTraining])
def test_losses_that_a_layer_without_weights_adds_are_kept(kind, tmp_path):
    model = sequence(kind(name="own"))
    qmodel = keras_qat.quantize(model, calibration_data=X)
    for mode in (True, False):
        found = []
        for each in (model, qmodel):
            each(X, training=mode)
            found.append(sum(map(float, each.losses)))
        np.testing.assert_allclose(*found, rtol=0.02)
    exported(qmodel, X, tmp_path)


def test_layers_in_a_training_branch_follow_the_mode_of_the_model(tmp_path):
    model = sequence(Block(name="own"))
    qmodel = keras_qat.quantize(model, calibration_data=X)
    assert {"inner", "dropout", "path"} <= {layer.name for layer in qmodel.layers}
    assert near(qmodel, model)
    np.testing.assert_array_equal(qmodel(X), qmodel(X, training=False))
    assert changed(qmodel) > 0.7
    exported(qmodel, X, tmp_path)


def test_a_subclassed_model_keeps_its_dropout():
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.first, self.head = layers.Dense(8), layers.Dense(2)
            self.drop, self.drop_path = layers.Dropout(0.5), DropPath()

        def call(self, x, training=None):
            x = self.drop_path(self.first(x), training=training)
            if training:
                x = self.drop(x, training=training)
            return self.head(x)

    model = Net()
    model(X)
    qmodel = keras_qat.quantize(model, calibration_data=X)
    assert near(qmodel, model)
    assert changed(qmodel) > 0.9


def test_a_subclassed_model_that_computes_otherwise_in_training_is_warned_about():
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.head = layers.Dense(2)

        def call(self, x, training=None):
            return self.head(x * 2.0 if training else x)

    model = Net()
    model(X)
    with pytest.warns(UserWarning, match=r"'net' \(Net\) is taken apart.*In training it does some"):
        keras_qat.quantize(model, calibration_data=X)


def test_two_calls_of_a_layer_draw_from_one_state():
    own, inputs = DropPath(name="own"), keras.Input((8,))
    x = own(layers.Dense(8)(own(layers.Dense(8)(inputs))))
    qmodel = keras_qat.quantize(keras.Model(inputs, layers.Dense(2)(x)), calibration_data=X)
    (layer,) = (each for each in qmodel.layers if isinstance(each, LivingIdentity))
    before = np.array(layer.variables[0])
    qmodel(X, training=True)
    assert np.array(layer.variables[0])[-1] == before[-1] + 2


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = sequence(Louder(name="own"))
    finally:
        keras.config.set_dtype_policy("float32")
    qmodel = keras_qat.quantize(model, calibration_data=X)
    assert changed(qmodel) > 0.9
    assert qmodel.get_layer("own").compute_dtype == "float16"
