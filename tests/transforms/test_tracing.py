"""Subclassed models, layers made of layers, registered rules and layers left in float."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import ops as integer_ops
from keras_qat.rules import RULES
from tests.models import images, randomize

layers = keras.layers


class Block(layers.Layer):
    """A convolution with a shortcut, as users write one."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training) + x)


class Classifier(keras.Model):
    def __init__(self):
        super().__init__(name="classifier")
        self.stem = layers.Conv2D(4, 3, activation="relu", name="stem")
        self.block = Block(4, name="block")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=None):
        return self.head(self.pool(self.block(self.stem(x), training=training)))


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__(name="two")
        self.left, self.right = layers.Dense(3, name="l"), layers.Dense(3, name="r")

    def call(self, inputs):
        return {"sum": self.left(inputs["a"]) + self.right(inputs["b"])}


@pytest.fixture
def x():
    return images(16, (8, 8, 3))


def exported(qmodel, x, path):
    report = tflite_export.export(qmodel, path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    return report


def test_a_subclassed_model_is_taken_apart(x, tmp_path):
    model = Classifier()
    model(x)
    before, weights = model.predict(x, verbose=0), model.get_weights()
    qmodel = keras_qat.quantize(model, calibration_data=x)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert all(map(np.array_equal, model.get_weights(), weights))
    names = {layer.name for layer in qmodel.layers}
    assert {"stem", "conv", "norm", "pool", "head"} <= names
    assert np.abs(qmodel.predict(x, verbose=0) - before).max() < 0.1 * np.abs(before).max()
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((16, 3)), verbose=0)
    exported(qmodel, x, tmp_path)


def test_inputs_and_outputs_by_name():
    data = {"a": images(8, (4,)), "b": images(8, (5,), seed=1)}
    model = TwoInputs()
    model(data)
    qmodel = keras_qat.quantize(model, calibration_data=data)
    assert qmodel(data)["sum"].shape == (8, 3)
    assert sorted(qmodel.to_integer().inputs) == ["a", "b"]


def test_layers_made_of_layers_are_taken_apart(x, tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(4, 1, name="stem")(inputs)
    model = keras.Model(inputs, Block(4, name="second")(Block(4, name="first")(stem)))
    randomize(model)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert {"conv", "conv_1", "norm", "norm_1"} <= {layer.name for layer in qmodel.layers}
    exported(qmodel, x, tmp_path)


def test_an_unbuilt_subclassed_model_says_what_to_do(x):
    with pytest.raises(ValueError, match="'classifier' has no weights yet"):
        keras_qat.quantize(Classifier(), calibration_data=x)


def test_a_call_that_needs_numbers_says_what_to_do(x):
    class Impossible(Classifier):
        def call(self, x):
            return super().call(x) * np.asarray(x).mean()

    model = Impossible()
    model.built = True
    with pytest.raises(ValueError, match="Write it with layers and"):
        keras_qat.quantize(model, calibration_data=x)


def test_data_that_is_read_once_shows_no_shapes(x):
    model = Classifier()
    model(x)
    with pytest.raises(ValueError, match="can be read twice"):
        keras_qat.quantize(model, calibration_data=(batch for batch in [x]))


@keras.saving.register_keras_serializable(package="test")
class Swap(layers.Layer):
    """Exchanges height and width, with an op that no raw operation has a layer for."""

    def call(self, x):
        return keras.ops.swapaxes(x, 1, 2)


def lower_swap(layer, operands, context):
    return context.same_grid(integer_ops.Transpose((operands[0],), context.name, (2, 1, 3)))


def with_swap():
    inputs = keras.Input((8, 6, 3), name="image")
    x = Swap(name="swap")(layers.Conv2D(4, 3, name="conv")(inputs))
    return randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))


def test_a_registered_rule_deploys_a_layer_of_the_users_own(tmp_path, monkeypatch):
    x = images(16, (8, 6, 3))
    monkeypatch.setitem(RULES, Swap, None)
    del RULES[Swap]
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'swap' \(Swap\): no rule"):
        keras_qat.quantize(with_swap(), calibration_data=x)
    rule = keras_qat.Rule(keras_qat.Output.SAME_AS_INPUT, lower_swap)
    keras_qat.register_rule(Swap, rule)
    qmodel = keras_qat.quantize(with_swap(), calibration_data=x)
    assert exported(qmodel, x, tmp_path).comparison.flip_rate == 0.0


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("Swap", keras_qat.Rule(keras_qat.Output.FIXED), "belongs to a type of layers"),
        (Swap, lower_swap, "must be a keras_qat.Rule"),
    ],
)
def test_what_is_no_rule_is_refused(kind, rule, message):
    with pytest.raises(ValueError, match=message):
        keras_qat.register_rule(kind, rule)


def test_a_layer_without_a_rule_stays_in_float_where_the_user_says_so(x, tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    y = layers.Resizing(6, 6, name="resized")(layers.Conv2D(4, 3, name="conv")(inputs))
    y = layers.Flatten(name="flat")(layers.Conv2D(2, 3, name="second")(y))
    model = keras.Model(inputs, layers.Dense(2, name="head")(y))
    with pytest.raises(keras_qat.UnsupportedLayerError, match="its name: None"):
        keras_qat.quantize(model, calibration_data=x)
    qmodel = keras_qat.quantize(model, calibration_data=x, overrides={"resized": None})
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((16, 2)), verbose=0)
    assert isinstance(qmodel.get_layer("second"), keras_qat.wrappers.QuantizeConv2D)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert [part.layers for part in report.float_parts] == [("resized",)]
    path = tmp_path / "qat.keras"
    qmodel.save(path)
    np.testing.assert_array_equal(keras_qat.load_model(path)(x), qmodel(x))


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


@pytest.mark.parametrize("step", ["train_step", "compute_loss"])
def test_steps_of_the_users_own_are_said_to_be_left_behind(step):
    own = getattr(keras.Model, step)
    kind = type("Mine", (keras.Model,), {step: lambda self, *args: own(self, *args)})
    inputs = keras.Input((4,))
    model = kind(inputs, layers.Dense(2)(inputs), name="mine")
    with pytest.warns(UserWarning, match=rf"'mine' \(Mine\) has its own {step}.*QuantizedModel"):
        keras_qat.quantize(model, calibration_data=images(8, (4,)))


@keras.saving.register_keras_serializable(package="test")
class Gain(layers.Layer):
    """A layer that trains a weight of its own, in a raw operation."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * self.gain


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
class PlainDense(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(4)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


LOSING = [
    (Gain, {}, "trains weights of its own \\('gain'\\)"),
    (PenalizedDense, {}, "calls add_loss"),
    (PlainDense, {"activity_regularizer": "l2"}, "has an activity_regularizer"),
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


class DropPath(layers.Layer):
    """Leaves out whole examples, in training alone, with raw operations."""

    def call(self, x, training=None):
        if not training:
            return x * 1.0
        keep = keras.random.uniform((keras.ops.shape(x)[0], 1)) < 0.5
        return keras.ops.where(keep, 0.0, x)


class Louder(layers.Layer):
    def call(self, x, training=False):
        return x * (2.0 if training else 1.0)


@pytest.mark.parametrize("kind", [DropPath, Louder])
def test_what_a_layer_does_in_training_alone_is_said_to_be_lost(kind):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(kind(name="own")(inputs)))
    with pytest.warns(UserWarning, match=rf"'own' \({kind.__name__}\) is taken apart.*In training"):
        keras_qat.quantize(model, calibration_data=images(8, (4,)))


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
