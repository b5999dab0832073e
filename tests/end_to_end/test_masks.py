"""Masks of sequences: layers in float read them, and a quantized layer that would is refused."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers
RNG = np.random.default_rng(0)
WORDS = RNG.integers(1, 20, (64, 6)).astype("int32")
WORDS[:32, 3:] = 0
STEPS = RNG.normal(size=(64, 6, 4)).astype("float32")
STEPS[:32, 3:] = 0.0


def of_words(*others):
    inputs = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(20, 8, mask_zero=True, name="embedding")(inputs)
    x = layers.Dense(8, activation="relu", name="dense")(x)
    for layer in others:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x)), WORDS


def of_steps(*others):
    inputs = keras.Input((6, 4), name="steps")
    x = layers.Masking(name="masking")(inputs)
    for layer in others:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x)), STEPS


def attention():
    inputs = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(20, 8, mask_zero=True, name="embedding")(inputs)
    x = layers.Dense(8, activation="relu", name="dense")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x)), WORDS


def normalized():
    return of_words(layers.BatchNormalization(name="norm"), layers.GlobalAveragePooling1D(name="p"))


CASES = {
    "average": (lambda: of_words(layers.GlobalAveragePooling1D(name="pool")), "pool"),
    "lstm of words": (lambda: of_words(layers.LSTM(4, unroll=True, name="rnn")), "rnn"),
    "lstm of steps": (lambda: of_steps(layers.LSTM(4, unroll=True, name="rnn")), "rnn|masking"),
    "attention": (attention, "pool"),
    "batch normalization": (normalized, "p"),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_in_float_read_masks_in_the_model_and_in_the_file(case, tmp_path):
    keras.utils.set_random_seed(0)
    make, left = CASES[case]
    model, x = make()
    keras_qat.reestimate_batch_normalization(model, x)
    expected = model.predict(x, verbose=0)
    qmodel = keras_qat.quantize(model, overrides={left: None}, calibration_data=x)
    error = np.abs(qmodel.predict(x, verbose=0) - expected)
    assert error.max() < 0.06 * np.abs(expected).max()
    qmodel.compile("adam", "mse")
    qmodel.fit(x, np.ones((64, 2)), verbose=0)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    assert report.comparison.flip_rate < 0.002
    names = [name for part in report.float_parts for name in part.layers]
    assert not [name for name in names if "equal" in name]
    qmodel.save(tmp_path / "net.keras")
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))


@pytest.mark.parametrize("layer", [layers.GlobalAveragePooling1D(name="own")])
def test_a_quantized_layer_that_would_read_a_mask_is_refused_with_its_maker(layer):
    model, x = of_words(layer)
    message = r"'own' \(\w+\): it reads the mask that 'embedding' makes"
    with pytest.raises(keras_qat.UnsupportedLayerError, match=message) as error:
        keras_qat.quantize(model, calibration_data=x)
    assert "equal" not in str(error.value).partition("Ways out")[0]
