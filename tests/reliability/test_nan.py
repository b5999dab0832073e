"""NaN has no integer: it is refused with its layer and a count, and never becomes a number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from tests.reliability.tiny import CONFIGS, X, Y, compiled, fit, network, new_model

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers


OTHER_KINDS = [kind for kind in CONFIGS if kind != "lsq"]


def with_nan(array):
    broken = array.copy()
    broken[3, 1] = broken[3, 2] = broken[9, 0] = np.nan
    return broken


WAYS = {
    "array": lambda x: x,
    "tensor": tf.constant,
    "dataset": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(8),
    "labelled dataset": lambda x: tf.data.Dataset.from_tensor_slices((x, Y)).batch(8),
}


# How data comes and what the grids are have nothing in common: each against one of the others.
@pytest.mark.parametrize(
    ("kind", "way"), [*(("lsq", way) for way in WAYS), *((kind, "array") for kind in OTHER_KINDS)]
)
def test_predict_refuses_nan_with_the_input_and_a_count(kind, way):
    qmodel = new_model(kind)
    give = WAYS[way]
    assert np.isfinite(qmodel.predict(give(X), verbose=0)).all()
    with pytest.raises(ValueError, match=r"Input 'numbers' .*NaN in 2 of 64 examples"):
        qmodel.predict(give(with_nan(X)), verbose=0)


def test_predict_on_batch_and_layer_codes_refuse_it_too():
    qmodel = new_model()
    with pytest.raises(ValueError, match="NaN in 2 of 64"):
        qmodel.predict_on_batch(with_nan(X))
    with pytest.raises(ValueError, match="NaN in 2 of 64"):
        qmodel.layer_codes(with_nan(X))


def test_batches_that_are_read_once_give_nan():
    def batches():
        yield from ((batch,) for batch in np.split(with_nan(X), 8))

    outputs = new_model().predict(batches(), steps=8, verbose=0)
    rows = np.isnan(with_nan(X)).any(axis=1)
    np.testing.assert_array_equal(np.isnan(outputs), np.repeat(rows[:, None], 3, axis=1))


def test_endless_data_is_counted_as_far_as_it_was_read():
    endless = tf.data.Dataset.from_tensor_slices(with_nan(X)).batch(8).repeat()
    with pytest.raises(ValueError, match="NaN in 2 of 16 examples"):
        new_model().predict(endless, steps=2, verbose=0)


def test_only_outputs_that_depend_on_an_input_lose_by_its_nan():
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    heads = [layers.Dense(2)(left), layers.Dense(2)(right)]
    qmodel = keras_qat.quantize(keras.Model([left, right], heads), calibration_data=[X, X])
    with_left, with_right = qmodel([with_nan(X), X], training=False)
    assert np.isnan(with_left).any()
    assert not np.isnan(with_right).any()


def test_a_layer_in_float_may_make_what_it_likes_of_nan():
    @keras.saving.register_keras_serializable(package="test_nan")
    class Filled(layers.Layer):
        def call(self, x):
            return keras.ops.where(keras.ops.isnan(x), 0.0, x)

    inputs = keras.Input((6,), name="numbers")
    filled = Filled(name="filled")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="last")(filled), name="fills")
    overrides = {"numbers|filled": None}
    qmodel = compiled(keras_qat.quantize(model, overrides=overrides, calibration_data=X))
    assert np.isfinite(qmodel.predict(with_nan(X), verbose=0)).all()
    assert np.isfinite(qmodel.fit(with_nan(X), Y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_only_the_outputs_of_such_examples_are_nan(training, jit_compile):
    qmodel = new_model()
    call = tf.function(qmodel, jit_compile=jit_compile)
    clean, broken = (np.asarray(call(x, training=training)) for x in (X, with_nan(X)))
    rows = np.isnan(with_nan(X)).any(axis=1)
    assert np.isnan(broken[rows]).all()
    np.testing.assert_array_equal(broken[~rows], clean[~rows])


def test_evaluation_and_training_lose_their_loss_as_in_float():
    qmodel = new_model()
    assert np.isnan(qmodel.evaluate(with_nan(X), Y, verbose=0))
    stop = keras.callbacks.TerminateOnNaN()
    history = qmodel.fit(with_nan(X), Y, epochs=3, verbose=0, callbacks=[stop]).history
    assert len(history["loss"]) == 1


def test_several_inputs_are_told_apart():
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    model = keras.Model([left, right], layers.Dense(2)(layers.Add()([left, right])))
    qmodel = keras_qat.quantize(model, calibration_data=[X, X])
    with pytest.raises(ValueError, match=r"Input 'right' .*NaN in 2 of 64"):
        qmodel.predict([X, with_nan(X)], verbose=0)


def test_a_mask_still_weighs_the_loss():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, layers.Dense(2)(layers.Dropout(0.0)(x)))
    data = np.random.default_rng(0).integers(0, 3, (16, 5)).astype(np.int32)
    qmodel = keras_qat.quantize(model, calibration_data=data)
    target = np.ones((16, 5, 2), np.float32)
    losses = []
    for each in (model, qmodel):
        each.compile(loss="mse")
        losses.append(each.evaluate(data, target, verbose=0))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("lsq", "kernel"),
        ("lsq", "bias"),
        ("lsq", "scale_ratio"),
        ("ste", "kernel"),
        (keras_qat.DoReFaConfig(), "kernel"),
    ],
)
def test_weights_that_are_not_finite_do_not_export(kind, name, value, tmp_path):
    qmodel = new_model(kind)
    fit(qmodel)
    (variable,) = (v for v in qmodel.get_layer("first").variables if v.name == name)
    values = np.array(variable)
    values.reshape(-1)[0] = value
    variable.assign(values)
    message = f"Layer 'first' holds NaN or infinity in 1 of {values.size} values of '{name}'"
    with pytest.raises(ValueError, match=message):
        tflite_export.export(qmodel, tmp_path / "net.tflite", verbose=False)
    assert not list(tmp_path.iterdir())


def test_a_file_refuses_nan(tmp_path):
    qmodel = new_model()
    for dtype in ("int8", "float32"):
        path = tmp_path / f"{dtype}.tflite"
        tflite_export.export(qmodel, path, samples=X, io_dtype=dtype, verbose=False)
        with pytest.raises(ValueError, match="Input 'numbers' holds NaN in 3 of 384 values"):
            tflite_export.predict(path, with_nan(X))


def test_integers_as_inputs_are_never_nan():
    float_model = network()
    qmodel = compiled(keras_qat.quantize(float_model, calibration_data=np.int32(X * 10)))
    assert np.isfinite(qmodel.predict(np.int32(X * 10), verbose=0)).all()
