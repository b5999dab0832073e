"""Calls of the user's own: traced as they compute, or refused by name."""

import keras
import numpy as np
import pytest

import keras_qat
from tests.models import images
from tests.quantization.passes.test_tracing import exported

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


class Doubled(keras.Model):
    """Built on inputs and outputs, and yet with a call of its own."""

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


class DoubledSequential(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training)


def doubled(name="doubled"):
    inputs = keras.Input((8,))
    return Doubled(inputs, layers.Dense(3, name="inside")(inputs), name=name)


def doubled_sequential():
    return DoubledSequential([keras.Input((8,)), layers.Dense(3, name="inside")], name="doubled")


def inside_another(make):
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(2, name="head")(make()(inputs)))


@pytest.mark.parametrize(
    "make",
    [
        doubled,
        doubled_sequential,
        lambda: inside_another(doubled),
        lambda: inside_another(doubled_sequential),
    ],
    ids=["model", "sequential", "nested model", "nested sequential"],
)
def test_a_model_with_a_call_of_its_own_is_traced_as_it_computes(make, tmp_path):
    data = images(64, (8,))
    model = make()
    expected = model.predict(data, verbose=0)
    qmodel = keras_qat.quantize(model, calibration_data=data)
    error = np.abs(qmodel.predict(data, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    assert "inside" in {layer.name for layer in qmodel.layers}
    exported(qmodel, data, tmp_path)


def test_a_call_of_its_own_that_needs_numbers_is_refused_by_name():
    class Counting(Doubled):
        def call(self, x, training=None):
            return super().call(x) * float(np.asarray(x).mean())

    inputs = keras.Input((8,))
    model = Counting(inputs, layers.Dense(3)(inputs), name="counting")
    with pytest.raises(ValueError, match=r"'counting' \(Counting\) has no layer graph, and its"):
        keras_qat.quantize(model, calibration_data=images(8, (8,)))
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'counting' \(Counting\): no rule"):
        keras_qat.quantize(inside_another(lambda: model), calibration_data=images(8, (8,)))


@keras.saving.register_keras_serializable(package="test")
class Gain(layers.Layer):
    """A layer that trains a weight of its own, as no layer of Keras does."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * keras.ops.tanh(self.gain)


@keras.saving.register_keras_serializable(package="test")
class PenalizedDense(layers.Layer):
    """A layer made of layers, with a loss of its own."""

    def build(self, shape):
        self.dense = layers.Dense(4)
        self.dense.build(shape)

    def call(self, x):
        self.add_loss(keras.ops.sum(keras.ops.square(self.dense.kernel)))
        return self.dense(x)


@keras.saving.register_keras_serializable(package="test")
class BranchingDense(layers.Layer):
    """A layer made of layers, with a branch that only training has."""

    def build(self, shape):
        self.dense = layers.Dense(4)
        self.dense.build(shape)

    def call(self, x, training=None):
        return self.dense(2.0 * x if training else x)


@keras.saving.register_keras_serializable(package="test")
class PlainDense(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(4)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


def test_an_activity_regularizer_moves_behind_the_parts(tmp_path):
    data = images(64, (6,))
    inputs = keras.Input((6,))
    own = PlainDense(name="own", activity_regularizer="l2")
    model = keras.Model(inputs, layers.Dense(2, name="head")(own(inputs)))
    qmodel = keras_qat.quantize(model, calibration_data=data)
    for each in (model, qmodel):
        each(data)
    np.testing.assert_allclose(sum(qmodel.losses), sum(model.losses), rtol=0.02)
    exported(qmodel, data, tmp_path)


LOSING = [
    (Gain, {}, "trains weights in raw operations \\('gain'\\)"),
    (PenalizedDense, {}, "calls add_loss"),
    (BranchingDense, {}, "does something else in training"),
]


@pytest.mark.parametrize(("kind", "options", "message"), LOSING, ids=lambda each: str(each)[:20])
def test_a_layer_that_would_lose_something_is_refused_and_its_way_out_keeps_it(
    kind, options, message, tmp_path
):
    data = images(64, (6,))
    inputs = keras.Input((6,))
    own = kind(name="own", **options)
    model = keras.Model(inputs, layers.Dense(2, name="head")(own(inputs)))
    model(data)
    losses, weights = sum(map(float, model.losses)), len(model.trainable_weights)
    with pytest.raises(keras_qat.UnsupportedLayerError, match=f"'own' .*no rule.*{message}"):
        keras_qat.quantize(model, calibration_data=data)
    model(data)
    assert sum(map(float, model.losses)) == losses  # the user's model is as it was

    qmodel = keras_qat.quantize(model, overrides={"own": None}, calibration_data=data)
    qmodel(data)
    np.testing.assert_allclose(sum(map(float, qmodel.losses)), losses, rtol=0.02)
    quantizers = {id(each) for q in qmodel.quantizers for each in q.trainable_variables}
    assert sum(id(each) not in quantizers for each in qmodel.trainable_weights) == weights
    qmodel.compile("sgd", "mse")
    qmodel.fit(data, np.zeros((64, 2)), verbose=0)
    exported(qmodel, data, tmp_path)


def test_a_training_call_that_assigns_leaves_the_users_model_as_it_was():
    class Counter(layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x, training=None):
            if training:
                self.calls.assign_add(1.0)
            return x * 2.0

    inputs = keras.Input((4,))
    counter = Counter()
    model = keras.Model(inputs, layers.Dense(2)(counter(inputs)))
    keras_qat.quantize(model, calibration_data=images(8, (4,)))
    assert float(counter.calls) == 0.0


class RawBias(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) + self.dense.bias


def model_with(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2)(layer(inputs)))


def test_weights_of_inner_layers_in_raw_operations_are_not_dropped():
    message = r"'own' .*trains weights in raw operations \('bias'\)"
    with pytest.raises(keras_qat.UnsupportedLayerError, match=message):
        keras_qat.quantize(model_with(RawBias(name="own")), calibration_data=images(8, (4,)))


class FrozenBase(keras.Model):
    """The way to fine-tune: the base runs in inference."""

    def __init__(self):
        super().__init__(name="tuned")
        self.base = keras.Sequential([layers.Dense(4), layers.BatchNormalization()], name="base")
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.base(x, training=False))


class MonteCarlo(keras.Model):
    """Dropout in inference as well."""

    def __init__(self):
        super().__init__(name="tuned")
        self.head, self.drop = layers.Dense(2), layers.Dropout(0.5)

    def call(self, x):
        return self.drop(self.head(x), training=True)


def test_a_base_that_runs_in_inference_is_said_to_train_unless_frozen():
    x = images(8, (4,))
    model = FrozenBase()
    model(x)
    with pytest.warns(UserWarning, match=r"calls 'base' with training=False .*trainable = False"):
        keras_qat.quantize(model, calibration_data=x)
    model.base.trainable = False
    keras_qat.quantize(model, calibration_data=x)


def test_random_answers_of_a_call_of_its_own_are_refused():
    x = images(8, (4,))
    model = MonteCarlo()
    model(x)
    with pytest.raises(ValueError, match=r"'tuned' \(MonteCarlo\) is not what its layers say"):
        keras_qat.quantize(model, calibration_data=x)


def test_what_is_done_around_a_call_is_refused():
    class Around(keras.Sequential):
        def __call__(self, *args, **kwargs):
            return 3 * super().__call__(*args, **kwargs)

    model = Around([keras.Input((4,)), layers.Dense(2)], name="around")
    with pytest.raises(ValueError, match=r"'around' .*__call__ of its own"):
        keras_qat.quantize(model, calibration_data=images(8, (4,)))
