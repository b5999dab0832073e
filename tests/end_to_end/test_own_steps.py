"""A user's model class keeps its steps when it is quantized, and no term of the loss is lost."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat

layers = keras.layers
X = np.random.default_rng(0).normal(0, 1, (64, 8)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]
LOSS = "mse"


def graph():
    inputs = keras.Input((8,), name="features")
    hidden = layers.Dense(4, activation="relu", name="hidden")(inputs)
    return inputs, layers.Dense(1, name="head")(hidden)


@keras.saving.register_keras_serializable(package="tests")
class Hundred(keras.Model):
    """The loss and one more number in the logs."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        return 100.0 + loss

    def train_step(self, data):
        return {**super().train_step(data), "my_step": 1.0}

    def test_step(self, data):
        return {**super().test_step(data), "tested": 2.0}

    def predict_step(self, data):
        return -super().predict_step(data)


def quantized(model, config=None, **compiled):
    qmodel = keras_qat.quantize(model, config, calibration_data=X)
    qmodel.compile("sgd", **(compiled or {"loss": LOSS}))
    return qmodel


def test_steps_and_losses_of_a_functional_subclass_are_kept():
    model = Hundred(*graph())
    qmodel = quantized(model)
    assert isinstance(qmodel, keras_qat.QuantizedModel)
    logs = qmodel.fit(X, Y, batch_size=64, verbose=0).history
    assert logs["my_step"] == [1.0]
    assert 100.0 < logs["loss"][0] < 105.0
    assert qmodel.evaluate(X, Y, verbose=0, return_dict=True)["tested"] == 2.0
    np.testing.assert_array_equal(qmodel.predict(X, verbose=0), -np.asarray(qmodel(X)))
    # The class itself is as before.
    assert keras_qat.QuantizedModel not in Hundred.__mro__
    model.compile("sgd", LOSS)
    assert model.fit(X, Y, verbose=0).history["my_step"] == [1.0]


def test_a_file_holds_the_steps(tmp_path):
    qmodel = quantized(Hundred(*graph()))
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    first, second = (each.fit(X, Y, verbose=0, shuffle=False).history for each in (qmodel, loaded))
    assert first == second


class Own(keras.Model):
    """A subclassed model: attributes of many kinds, its own metrics and `compile`."""

    def __init__(self, penalized=0.5):
        super().__init__(name="own")
        self.hidden = layers.Dense(4, activation="relu", name="hidden")
        self.heads = [layers.Dense(1, name="head")]
        self.penalized = penalized
        self.error = keras.losses.MeanSquaredError()
        self.tracker = keras.metrics.Mean("my_loss")
        self.noise = layers.GaussianNoise(0.0)

    def call(self, x):
        return 2.0 * self.heads[0](self.hidden(x))

    @property
    def metrics(self):
        return [self.tracker]

    def compile(self, optimizer, factor=3.0):
        super().compile(optimizer)
        self.factor = factor

    def weighed(self, loss):
        return self.factor * loss + self.penalized * tf.reduce_sum(self.heads[0].kernel ** 2)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.weighed(self.error(y, self(self.noise(x, training=True), training=True)))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.tracker.update_state(loss)
        return {"my_loss": self.tracker.result()}


def test_attributes_come_along(tmp_path):
    keras.utils.set_random_seed(0)
    model = Own()
    model.compile("sgd")
    model.fit(X, Y, verbose=0)
    before = [np.asarray(each) for each in model.weights]
    qmodel = quantized(model, factor=2.0)
    assert qmodel.heads == [qmodel.get_layer("head")]
    assert qmodel.tracker is not model.tracker
    head, y_pred = np.asarray(model.heads[0].kernel), np.asarray(qmodel(X, training=True))
    expected = 2.0 * np.mean((Y - y_pred) ** 2) + 0.5 * np.sum(head**2)
    found = qmodel.fit(X, Y, batch_size=64, verbose=0).history
    np.testing.assert_allclose(found["my_loss"], [expected], rtol=1e-5)  # float32 sums
    for now, then in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(now), then)
    Own()  # Keras has not changed what the class derives from

    with pytest.warns(UserWarning, match=r"custom_objects=\{'Own': Own\}"):
        qmodel.save(tmp_path / "own.keras")
    with pytest.raises(ValueError, match=r"steps of the class 'Own'.*\{'Own': keras.Model\}"):
        keras_qat.load_model(tmp_path / "own.keras")
    plain = keras_qat.load_model(
        tmp_path / "own.keras", compile=False, custom_objects={"Own": keras.Model}
    )
    np.testing.assert_array_equal(plain.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    loaded = keras_qat.load_model(
        tmp_path / "own.keras", compile=False, custom_objects={"Own": Own}
    )
    loaded.compile("sgd", factor=2.0)
    assert loaded.penalized == 0.5
    first, second = (each.fit(X, Y, verbose=0, shuffle=False).history for each in (qmodel, loaded))
    assert first == second


class Alone(keras.Model):
    """A loss that does not ask Keras."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return keras.ops.mean(keras.ops.abs(y - y_pred))


def test_terms_of_quantization_join_a_loss_that_leaves_them_out():
    config = keras_qat.LSQConfig(weight_bits=2, activation_bits=2, code_regularization=0.1)
    inner = {"overrides": {"hidden": config}, "calibration_data": X}
    qmodel = keras_qat.quantize(Alone(*graph()), **inner)
    plain = keras_qat.quantize(keras.Model(*graph()), **inner)
    plain.set_weights(qmodel.get_weights())
    plain.compile("sgd", "mae")
    qmodel.compile("sgd")
    y_pred = qmodel(X, training=True)
    found = qmodel.compute_loss(X, Y, y_pred)
    expected = plain.compute_loss(X, Y, y_pred)
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-6)  # float32 sums
    assert float(found) > float(np.mean(np.abs(Y - np.asarray(y_pred))))


def test_a_loss_that_leaves_the_teacher_out_is_refused():
    qmodel = quantized(Alone(*graph()))
    qmodel.distill_from(loss="l2")
    with pytest.raises(ValueError, match=r"compute_loss of the class 'Alone' leaves out .*teacher"):
        qmodel.fit(X, Y, verbose=0)


class Stepping(keras.Model):
    """A step whose loss is its own, as in many tutorials."""

    def lost(self, y, y_pred):
        return tf.reduce_mean((y - y_pred) ** 2)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.lost(y, self(x, training=True))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class WithTerms(Stepping):
    """The way out that the error names."""

    def lost(self, y, y_pred):
        loss = super().lost(y, y_pred)
        return self.quantization_loss(loss) if hasattr(self, "quantization_loss") else loss


def fit_gdnsq(kind):
    config = keras_qat.GDNSQConfig(weight_bits=4, activation_bits=4)
    qmodel = quantized(kind(*graph()), config)
    x, y = np.repeat(X, 16, axis=0), np.repeat(Y, 16, axis=0)
    schedule = keras_qat.callbacks.GDNSQSchedule()
    return qmodel, qmodel.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[schedule])


def test_a_step_without_the_terms_of_the_loss_is_refused():
    with pytest.raises(ValueError, match=r"train_step of the class 'Stepping' leaves out its pen"):
        fit_gdnsq(Stepping)
    assert quantized(Stepping(*graph())).fit(X, Y, verbose=0).history["loss"]  # LSQ has no terms
    qmodel, _ = fit_gdnsq(WithTerms)
    assert qmodel.meets_targets()


class Projecting(Own):
    def __init__(self):
        super().__init__()
        self.projector = layers.Dense(2, name="projector")
        self.projector.build((None, 1))

    def weighed(self, loss):
        return loss + tf.reduce_mean(self.projector(tf.zeros((1, 1))) ** 2)


class Counting(Own):
    def __init__(self):
        super().__init__()
        self.steps = keras.Variable(0.0, trainable=False, name="steps")

    def weighed(self, loss):
        self.steps.assign_add(1.0)
        return loss


class Planned(Own):
    def __init__(self):
        super().__init__()
        self.plan = 3.0

    def weighed(self, loss):
        return loss * self.plan


class InARow(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Projecting, r"they read 'projector', and the quantized model has no layer 'projector'"),
        (Counting, r"they read the variable 'steps'"),
        (Planned, r"a quantized model has a 'plan' of its own"),
        (lambda: InARow([layers.Dense(2, name="head")]), "is no Sequential model"),
    ],
    ids=["a layer beside the graph", "a variable", "a name", "Sequential"],
)
def test_what_cannot_be_kept_is_said(build, reason):
    model = build()
    model(X)
    with pytest.warns(UserWarning, match=f"train_step, which the quantized.*{reason}"):
        qmodel = keras_qat.quantize(model, calibration_data=X)
    assert type(qmodel) is keras_qat.QuantizedModel
