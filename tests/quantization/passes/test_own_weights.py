"""Weights that a layer of a user adds: they stay trainable, and deploy on grids."""

import contextlib

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.integer import add_headroom
from tests.models import images
from tests.quantization.passes.test_tracing import exported
from tests.seams import op_differences
from tests.untouched import untouched

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers, ops = keras.layers, keras.ops


class Own(layers.Layer):
    """Adds weights of the given shapes, with small random values; `use` is its `call`."""

    def __init__(self, use, regularizer=None, constraint=None, **shapes):
        super().__init__(name="own")
        self.use, self.shapes = use, shapes
        self.options = {"regularizer": regularizer, "constraint": constraint}

    def build(self, shape):
        for name, size in self.shapes.items():
            weight = self.add_weight(
                shape=size, initializer=keras.initializers.RandomNormal(seed=1), name=name
            )
            weight.assign(weight + 0.5)
            weight.regularizer = self.options["regularizer"]
            weight.constraint = self.options["constraint"]
            setattr(self, name, weight)

    def call(self, x):
        return self.use(self, x)


class Positions(layers.Layer):
    """Adds a learned embedding of each step, as the examples of Keras do."""

    def __init__(self):
        super().__init__(name="own")
        self.dense, self.embedding = layers.Dense(4), layers.Embedding(6, 4)

    def call(self, x):
        steps = ops.expand_dims(ops.arange(0, 6), axis=0)
        return self.dense(x) + self.embedding(steps)


class Fixed(layers.Conv2D):
    """Changes nothing but the constructor."""

    def __init__(self, filters):
        super().__init__(filters, 3, padding="same", activation="relu", name="own")


ROWS, IMAGE = (6, 4), (6, 6, 4)
CASES = {
    "scale and bias": (ROWS, lambda: Own(lambda s, x: s.g * x + s.b, g=(4,), b=(4,)), 2),
    "layer scale": (ROWS, lambda: Own(lambda s, x: x * s.g, g=(1, 4)), 1),
    "one number": (ROWS, lambda: Own(lambda s, x: ops.multiply(s.g, x), g=()), 1),
    "bias": (IMAGE, lambda: Own(lambda s, x: x + ops.reshape(s.b, (1, 1, 1, 4)), b=(4,)), 1),
    "shifted and scaled": (ROWS, lambda: Own(lambda s, x: (x - s.b) * s.g, b=(4,), g=(4,)), 2),
    "with constants": (
        ROWS,
        lambda: Own(lambda s, x: (x * s.g + 1.0) * 0.5 + s.b, g=(4,), b=(4,)),
        2,
    ),
    "table": (ROWS, lambda: Own(lambda s, x: x + s.b, b=ROWS), 1),
    "longer table": (ROWS, lambda: Own(lambda s, x: x + s.b[None, : x.shape[1]], b=(9, 4)), 1),
    "affine table": (ROWS, lambda: Own(lambda s, x: x * s.g + s.b, g=(1, *ROWS), b=ROWS), 2),
    "row of an image": (IMAGE, lambda: Own(lambda s, x: x * s.g, g=(6, 1, 4)), 1),
    "positions": (ROWS, Positions, 1),
    "linear": (ROWS, lambda: Own(lambda s, x: ops.matmul(x, s.w) + s.b, w=(4, 3), b=(3,)), 2),
    "linear without bias": (ROWS, lambda: Own(lambda s, x: x @ s.w, w=(4, 3)), 1),
    "transposed": (ROWS, lambda: Own(lambda s, x: ops.matmul(x, ops.transpose(s.w)), w=(3, 4)), 1),
    "dot": (ROWS, lambda: Own(lambda s, x: ops.dot(x, s.w) + s.b, w=(4, 3), b=(3,)), 2),
    "einsum": (ROWS, lambda: Own(lambda s, x: ops.einsum("btc,dc->btd", x, s.w), w=(3, 4)), 1),
    "conv": (IMAGE, lambda: Own(lambda s, x: ops.conv(x, s.w, 2) + s.b, w=(3, 3, 4, 3), b=(3,)), 2),
    "conv 1d": (ROWS, lambda: Own(lambda s, x: ops.conv(x, s.w, padding="same"), w=(3, 4, 3)), 1),
    "depthwise": (IMAGE, lambda: Own(lambda s, x: ops.depthwise_conv(x, s.w), w=(3, 3, 4, 1)), 1),
    "subclass of Conv2D": (IMAGE, lambda: Fixed(3), 2),
}


def network(shape, own):
    inputs = keras.Input(shape)
    x = layers.Dense(4, activation="relu", name="first")(inputs)
    x = layers.Flatten()(layers.ReLU(name="relu")(own(x)))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def own_weights(qmodel):
    found = [each for layer in qmodel.layers for each in layer.trainable_weights]
    return [each for each in found if each.path.startswith("own") and "quantizer" not in each.path]


@pytest.mark.parametrize("case", CASES)
def test_they_train_and_deploy_exactly(case, tmp_path):
    shape, make, count = CASES[case]
    keras.utils.set_random_seed(1)
    x, model = images(32, shape), network(shape, make())
    expected = model.predict(x, verbose=0)
    before = [np.array(each) for each in model.weights]
    qmodel = keras_qat.quantize(model, calibration_data=x)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.06 * np.abs(expected).max()
    assert len(own_weights(qmodel)) == count
    assert len(qmodel.trainable_weights) - _learned_scales(qmodel) == len(model.trainable_weights)

    start = [np.array(each) for each in own_weights(qmodel)]
    qmodel.compile("adam", "mse")
    qmodel.fit(x, np.ones((32, 2)), epochs=2, verbose=0)
    for weight, old in zip(own_weights(qmodel), start, strict=True):
        assert np.abs(np.asarray(weight) - old).max() > 1e-4
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    assert all(map(np.array_equal, before, map(np.asarray, model.weights)))

    graph = add_headroom(qmodel.to_integer())
    assert {each.flip_rate for each in op_differences(graph, qmodel.layer_codes(x))} == {0.0}
    assert exported(qmodel, x, tmp_path).comparison.flip_rate == 0.0
    qmodel.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras_qat.load_model(tmp_path / "net.keras")(x), qmodel(x))


def _learned_scales(qmodel):
    return len({id(each) for q in qmodel.quantizers for each in q.trainable_variables})


def scaled(**options):
    own = Own(lambda s, x: x * s.g + s.b, g=(4,), b=(4,), **options)
    return network(ROWS, own)


def test_regularizers_and_constraints_stay():
    x, model = images(32, ROWS), scaled(regularizer=keras.regularizers.L2(0.1))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    np.testing.assert_allclose(sum(qmodel.losses), sum(model.losses), rtol=1e-6)

    qmodel = keras_qat.quantize(
        scaled(constraint=keras.constraints.UnitNorm(axis=0)), calibration_data=x
    )
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.ones((32, 2)), verbose=0)
    for weight in own_weights(qmodel):
        np.testing.assert_allclose(np.linalg.norm(weight), 1.0, rtol=1e-5)


def test_a_frozen_layer_stays_frozen():
    x, model = images(32, ROWS), scaled()
    model.get_layer("own").trainable = False
    assert own_weights(keras_qat.quantize(model, calibration_data=x)) == []


def test_the_layer_keeps_its_name_and_takes_an_override():
    x, model = images(32, ROWS), network(ROWS, CASES["linear"][1]())
    qmodel = keras_qat.quantize(
        model, overrides={"own": keras_qat.LSQConfig(weight_bits=3)}, calibration_data=x
    )
    assert qmodel.get_layer("own").weight_quantizer.bits == 3


def test_a_second_call_of_the_layer_shares_the_weights(tmp_path):
    inputs, own = keras.Input((4,)), Own(lambda s, x: x * s.g + s.b, g=(4,), b=(4,))
    x = own(layers.ReLU()(own(layers.Dense(4)(inputs))))
    model, data = keras.Model(inputs, layers.Dense(2)(x)), images(32, (4,))
    qmodel = keras_qat.quantize(model, calibration_data=data)
    assert len(own_weights(qmodel)) == 2
    exported(qmodel, data, tmp_path)


def test_training_the_float_model_again_gives_its_new_values():
    x, model = images(32, ROWS), scaled()
    keras_qat.quantize(model, calibration_data=x)
    model.get_layer("own").g.assign([1.0, 2.0, 3.0, 4.0])
    qmodel = keras_qat.quantize(model, calibration_data=x)
    np.testing.assert_array_equal(own_weights(qmodel)[0], [1.0, 2.0, 3.0, 4.0])


def test_the_float_model_stays_as_it_was():
    class Scaled(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=shape[-1:], initializer="ones")

        def call(self, x):
            return x * self.gain

    x, own = images(8, ROWS), Scaled(name="own")
    model = network(ROWS, own)
    with untouched(model, x):
        keras_qat.quantize(model, calibration_data=x)
    assert isinstance(own.gain, keras.Variable)


def test_weights_alone_on_grids(tmp_path):
    x, model = images(32, ROWS), network(ROWS, CASES["scale and bias"][1]())
    config = keras_qat.LSQConfig(activation_bits=None)
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    assert len(own_weights(qmodel)) == 2
    exported(qmodel, x, tmp_path)


class Tied(layers.Layer):
    def __init__(self, weight):
        super().__init__(name="tied")
        self.weight = weight

    def call(self, x):
        return x * self.weight


IMPOSSIBLE = {
    "standardized": (
        lambda: Own(lambda s, x: x @ (s.w - ops.mean(s.w)), w=(4, 3)),
        "'own' .*trains weights .*'w'.*no layer states the operation Mean on 'w'",
    ),
    "softmax": (
        lambda: Own(lambda s, x: x * ops.softmax(s.g), g=(4,)),
        "'own' .*'g'.*no layer states the operation Softmax on 'g'",
    ),
    "twice": (
        lambda: Own(lambda s, x: ops.relu(x @ s.w) @ s.w, w=(4, 4)),
        None,
    ),
    "two operations": (
        lambda: Own(lambda s, x: ops.relu(x * s.g) + s.g, g=(4,)),
        "'own' .*'g' in two operations",
    ),
    "three operands": (
        lambda: Own(lambda s, x: ops.einsum("btc,cd,de->bte", x, s.w, s.v), w=(4, 4), v=(4, 3)),
        "'own' .*'w', 'v'.*no layer states the operation Einsum",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_no_layer_states_is_refused_by_name_and_the_way_out_keeps_it(case, tmp_path):
    make, message = IMPOSSIBLE[case]
    x, model = images(32, ROWS), network(ROWS, make())
    expected = model.predict(x, verbose=0)
    if message is None:  # one layer, called twice
        assert len(own_weights(keras_qat.quantize(model, calibration_data=x))) == 1
        return
    with untouched_weights(model), pytest.raises(keras_qat.UnsupportedLayerError, match=message):
        keras_qat.quantize(model, calibration_data=x)
    qmodel = keras_qat.quantize(model, overrides={"own": None}, calibration_data=x)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    assert len(own_weights(qmodel)) == len(model.get_layer("own").trainable_weights)
    exported(qmodel, x, tmp_path)


@contextlib.contextmanager
def untouched_weights(model):
    """The attributes of the layer are its variables again, also behind an error."""
    own = model.get_layer("own")
    before = {k: v for k, v in vars(own).items() if isinstance(v, keras.Variable)}
    try:
        yield
    finally:
        assert all(getattr(own, name) is value for name, value in before.items())


def test_weights_that_two_layers_share_are_refused_by_name():
    inputs, own = keras.Input((4,)), Own(lambda s, x: x * s.g, g=(4,))
    x = own(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(Tied(own.g)(x)))
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'tied' .*shares .*'g' with 'own'"):
        keras_qat.quantize(model, calibration_data=images(8, (4,)))


def test_a_weight_that_parts_as_one_of_its_layers_stays_in_float_is_said():
    inputs, dense = keras.Input((4,)), layers.Dense(4, name="first")
    x = dense(inputs)
    parted = keras.Model(inputs, layers.Dense(2)(Tied(dense.bias)(x)))
    message = r"'tied' is left in float and shares a weight with 'first'.*one layer that is called"
    with pytest.warns(UserWarning, match=message):
        keras_qat.quantize(parted, overrides={"tied": None}, calibration_data=images(8, (4,)))
    # The way out: one layer that is called twice.
    whole = keras.Model(inputs, layers.Dense(2)(dense(x)))
    qmodel = keras_qat.quantize(whole, overrides={"first": None}, calibration_data=images(8, (4,)))
    assert len(qmodel.get_layer("first").weights) == 2
