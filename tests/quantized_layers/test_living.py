"""Layers in float that cannot be copied: the user's own object computes, on other variables."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.quantized_layers import LivingLayer
from keras_qat.quantized_layers import living as living_module
from tests.models import images
from tests.untouched import untouched

pytestmark = pytest.mark.slow_beyond(1)

layers, ops = keras.layers, keras.ops
X = images(64, (8,))
Y = np.ones((64, 2), "float32")


class Rich(layers.Layer):
    """No `get_config`, and one of everything that a layer may have."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5, seed=1)
        self.seed = keras.random.SeedGenerator(3)
        self.supports_masking = True

    def build(self, shape):
        self.gain = self.add_weight(
            shape=shape[-1:],
            initializer="ones",
            name="gain",
            regularizer=keras.regularizers.L2(0.01),
            constraint=keras.constraints.NonNeg(),
        )
        self.norm.build(shape)

    def call(self, x, training=None):
        x = self.drop(self.norm(x * self.gain, training=training), training=training)
        self.add_loss(ops.mean(ops.square(x)))
        if training:
            x = x + 0.01 * keras.random.normal(ops.shape(x), seed=self.seed)
        return x + ops.sin(x) * self.table


def network(layer, shape=(8,)):
    inputs = keras.Input(shape)
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(layer(x)))


def rich_network():
    return network(Rich(np.arange(8, dtype="float32") / 8, name="rich"))


def quantized(model, name):
    return keras_qat.quantize(model, overrides={name: None}, calibration_data=X)


def trained(qmodel, epochs=1):
    qmodel.compile("adam", "mse")
    qmodel.fit(X, Y, epochs=epochs, verbose=0, shuffle=False)
    return qmodel


def exported(qmodel, path, x=X, **limits):
    path = path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=x, verbose=False, **limits)
    assert report.mismatches == 0
    return report


def test_everything_trains_and_the_float_model_and_a_teacher_stay_bit_equal(tmp_path):
    model = rich_network()
    model(X)
    before = [np.array(each) for each in model.get_layer("rich").variables]
    expected = model.predict(X, verbose=0)
    qmodel = quantized(model, "rich")
    layer = qmodel.get_layer("rich")
    assert isinstance(layer, LivingLayer)
    assert qmodel.plan.layers[2].layer_type == "Rich"
    error = np.abs(qmodel.predict(X, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    assert len(qmodel.losses) == len(model.losses) == 2

    qmodel.distill_from(model, loss="l2", label_weight=1.0, from_logits=True)
    start = [np.array(each) for each in layer.variables]
    trained(qmodel)
    moved = [
        not np.array_equal(each, old) for each, old in zip(layer.variables, start, strict=True)
    ]
    assert all(moved)  # weights, statistics and seeds
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)
    for variable, old in zip(model.get_layer("rich").variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    assert exported(qmodel, tmp_path).float_parts[0].layers == ("rich",)


def test_training_draws_anew_and_inference_does_not():
    qmodel = quantized(rich_network(), "rich")
    assert not np.array_equal(qmodel(X, training=True), qmodel(X, training=True))
    np.testing.assert_array_equal(qmodel(X, training=False), qmodel(X, training=False))


@pytest.mark.parametrize("frozen", ["before", "after", "float model alone"])
def test_freezing_is_of_each_model_alone(frozen):
    model = rich_network()
    if frozen == "before":
        model.get_layer("rich").trainable = False
    qmodel = quantized(model, "rich")
    layer = qmodel.get_layer("rich")
    if frozen == "after":
        layer.trainable = False
    if frozen == "float model alone":
        model.trainable = False
    start = [np.array(each) for each in layer.weights]
    trained(qmodel)
    still = [
        np.array_equal(each, old)
        for each, old in zip(layer.weights, start, strict=True)
        if "seed" not in each.path
    ]
    assert all(still) if frozen != "float model alone" else not any(still)
    assert model.get_layer("rich").trainable is (frozen == "after")


def test_a_part_that_is_frozen_stays_so():
    model = rich_network()
    model.get_layer("rich").norm.trainable = False
    layer = quantized(model, "rich").get_layer("rich")
    assert [each.name for each in layer.trainable_weights] == ["gain"]


def test_a_clone_and_a_plan_of_memory_need_no_file():
    qmodel = trained(quantized(rich_network(), "rich"))
    clone = keras.models.clone_model(qmodel)
    clone.set_weights(qmodel.get_weights())
    np.testing.assert_array_equal(clone(X), qmodel(X))
    before = qmodel.get_weights()
    assert qmodel.planned_integer().ops
    assert all(map(np.array_equal, qmodel.get_weights(), before))


class Shuffled(layers.Layer):
    """Depth to space; other variadic arguments are not called `kwargs`."""

    def __init__(self, size, **options):
        super().__init__(**options)
        self.size = size

    def call(self, x):
        import tensorflow as tf

        return tf.nn.depth_to_space(x, self.size)

    def compute_output_shape(self, shape):
        size = self.size
        return (shape[0], shape[1] * size, shape[2] * size, shape[3] // size**2)


class Forgetful(layers.Layer):
    """Its `get_config` forgets the exponent."""

    def __init__(self, exponent=1.0, **kwargs):
        super().__init__(**kwargs)
        self.exponent = exponent

    def call(self, x):
        return ops.sign(x) * ops.abs(x) ** self.exponent

    def get_config(self):
        return super().get_config()


def image_model():
    inputs = keras.Input((6, 6, 3), name="image")
    outputs = Shuffled(2, name="own")(layers.Conv2D(4, 3, padding="same")(inputs))
    return keras.Model(inputs, outputs)


CASES = {
    "Lambda": lambda: network(layers.Lambda(lambda x: ops.sin(x), name="own")),
    "activation": lambda: network(layers.Dense(4, activation=lambda x: ops.sin(x), name="own")),
    "get_config loses the name": image_model,
    "get_config loses an argument": lambda: network(Forgetful(2.0, name="own")),
    "no get_config": lambda: network(Rich(np.ones(8, "float32"), name="own")),
}


@pytest.mark.parametrize("case", CASES)
def test_an_override_leaves_any_layer_in_float_under_its_name(case, tmp_path):
    model = CASES[case]()
    x = images(16, model.inputs[0].shape[1:])
    expected = model.predict(x, verbose=0)
    qmodel = keras_qat.quantize(model, overrides={"own": None}, calibration_data=x)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    assert "own" in {layer.name for layer in qmodel.layers}
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros_like(expected), verbose=0)
    exported(qmodel, tmp_path, x)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_the_float_model_has_no_new_nodes_and_no_losses_of_other_calls():
    model = network(Kept([0.5] * 8, name="kept"))
    with untouched(model, X):
        trained(quantized(model, "kept"))
        losses = len(model.losses)
    assert losses == 2


@pytest.fixture
def another_process(monkeypatch):
    """Forgets the layers that live in this process."""
    return lambda: monkeypatch.setattr(living_module, "_ALIVE", {})


def test_a_file_says_what_it_needs_and_then_computes_equal(tmp_path, another_process):
    x = images(16, (6, 6, 3))
    qmodel = keras_qat.quantize(image_model(), overrides={"own": None}, calibration_data=x)
    with pytest.warns(UserWarning, match=r"custom_objects=\{'Shuffled': Shuffled\}"):
        qmodel.save(tmp_path / "net.keras")
    another_process()
    with pytest.raises(Exception, match=r"'own' \(Shuffled\).*custom_objects"):
        keras_qat.load_model(tmp_path / "net.keras")
    loaded = keras_qat.load_model(tmp_path / "net.keras", custom_objects={"Shuffled": Shuffled})
    np.testing.assert_array_equal(loaded(x), qmodel(x))
    assert loaded.output_names == qmodel.output_names


def test_a_file_without_the_configuration_of_a_layer_says_so(tmp_path, another_process):
    qmodel = quantized(CASES["no get_config"](), "own")
    keras.saving.save_model(qmodel, tmp_path / "net.keras")  # past the check of `save`
    another_process()
    with pytest.raises(Exception, match=r"'own'.*had no configuration when it was saved"):
        keras_qat.load_model(tmp_path / "net.keras")


@keras.saving.register_keras_serializable(package="tests")
class Kept(Rich):
    """Takes a list, and states it."""

    def __init__(self, table, **options):
        super().__init__(np.asarray(table, "float32"), **options)

    def get_config(self):
        return {"table": self.table.tolist()}


def test_random_state_and_statistics_are_saved_and_resumed(tmp_path, another_process):
    qmodel = trained(quantized(network(Kept([0.5] * 8, name="kept")), "kept"))
    assert isinstance(qmodel.get_layer("kept"), LivingLayer)
    qmodel.save(tmp_path / "net.keras")
    another_process()
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    for mine, others in zip(qmodel.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(mine, others)
    np.testing.assert_array_equal(qmodel(X, training=True), loaded(X, training=True))
    for each in (qmodel, loaded):
        each.fit(X, Y, verbose=0, shuffle=False)
    np.testing.assert_array_equal(qmodel(X), loaded(X))


@pytest.mark.parametrize("case", ["get_config loses an argument", "no get_config", "activation"])
def test_a_layer_that_no_file_gives_back_is_refused_before_anything_is_written(case, tmp_path):
    qmodel = keras_qat.quantize(CASES[case](), overrides={"own": None}, calibration_data=X)
    with pytest.raises(ValueError, match=r"'own' \(\w+\) cannot be saved.*save_weights"):
        qmodel.save(tmp_path / "net.keras")
    assert not any(tmp_path.iterdir())
    qmodel.save_weights(tmp_path / "net.weights.h5")
    other = keras_qat.quantize(CASES[case](), overrides={"own": None}, calibration_data=X)
    other.load_weights(tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(other(X), qmodel(X))


def test_a_mask_passes_through_and_reaches_the_call():
    class Masked(layers.Layer):
        def __init__(self, *sizes):
            super().__init__(name="own")
            self.supports_masking = True

        def call(self, x, mask=None):
            return x * ops.cast(mask[..., None], x.dtype) if mask is not None else x * 0.0

    layer = LivingLayer(Masked(1, 2))
    x = ops.ones((2, 3, 4))
    x._keras_mask = ops.convert_to_tensor([[True, False, True], [True, True, False]])
    y = layer(x)
    np.testing.assert_array_equal(np.asarray(y)[..., 0], [[1, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(y._keras_mask, x._keras_mask)


def test_half_precision_computes_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = rich_network()
    finally:
        keras.config.set_dtype_policy("float32")
    qmodel = quantized(model, "rich")
    assert qmodel.get_layer("rich")(ops.ones((2, 8))).dtype == "float32"
    assert model.get_layer("rich").compute_dtype == "float16"
    exported(
        qmodel, tmp_path, max_flip_rate=0.1, min_argmax_agreement=0.9
    )  # the other layers compute in halves


def test_a_saved_model_of_tensorflow_stays_in_float(tmp_path):
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation="relu")])
    inner.export(tmp_path / "inner", verbose=False)
    model = network(layers.TFSMLayer(str(tmp_path / "inner"), call_endpoint="serve", name="own"))
    expected = model.predict(X, verbose=0)
    qmodel = quantized(model, "own")
    error = np.abs(qmodel.predict(X, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    with pytest.warns(UserWarning, match=r"safe_mode=False \(for 'own'\)"):
        qmodel.save(tmp_path / "net.keras")
    loaded = keras_qat.load_model(tmp_path / "net.keras", safe_mode=False)
    np.testing.assert_array_equal(loaded(X), qmodel(X))


def test_a_lambda_is_traced():
    inputs = keras.Input((10, 6))
    x = layers.Conv1D(4, 3, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Lambda(lambda x: x[:, -1])(x)))
    x = images(16, (10, 6))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert qmodel.plan.deploys
    expected = model.predict(x, verbose=0)
    assert np.abs(qmodel.predict(x, verbose=0) - expected).max() < 0.05 * np.abs(expected).max()
