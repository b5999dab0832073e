"""Every supported layer with every option, at 8 bits against float: function, losses, gradients.

`EVERY_LAYER=1 python -m pytest tests/end_to_end/test_every_layer.py` runs all cases, in minutes;
without it one in several runs, another part for each type of layer.
"""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from tests.every_layer import cases, kinds, options_of, refusal, values_of
from tests.models import images, randomize

pytestmark = [pytest.mark.slow_beyond(8), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

ALL = list(cases())
STRIDE = 1 if os.environ.get("EVERY_LAYER") else 12
LEAST_SQNR = 20.0
LEAST_COSINE = 0.9
CLIPPED_COSINE = 0.75
"""Of exponentials: calibration clips the few largest values, which had most of the gradient."""
NO_GRADIENT = 1e-3
"""Beside that of the inputs: what rounding errors leave, as for a bias before a normalization."""
RANDOM = (
    *(layers.AlphaDropout, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D),
)


def samples(model):
    (tensor,) = model.inputs
    if tensor.dtype == "int32":
        return np.random.default_rng(0).integers(0, 9, (64, 5)).astype(np.int32)
    return images(64, tuple(tensor.shape[1:]))


def sqnr(expected, found):
    """Signal to quantization noise, in dB."""
    noise = np.mean(np.square(expected - found))
    return 10.0 * np.log10(np.mean(np.square(expected)) / max(noise, 1e-30))


def losses(model, x):
    model(x, training=False)
    return float(sum(model.losses)) if model.losses else 0.0


def gradients(model, x):
    """Of a random projection of the outputs, in training: for the inputs and for a bias."""
    bias = _layer(model, "before").bias
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = model(inputs, training=True)
        weights = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
        loss = tf.reduce_sum(outputs * weights)
    return [np.ravel(each) for each in tape.gradient(loss, [inputs, bias.value])]


def _layer(model, name):
    layer = model.get_layer(name)
    return getattr(layer, "layer", layer)  # inside its wrapper


def cosine(left, right):
    return left @ right / max(np.linalg.norm(left) * np.linalg.norm(right), 1e-30)


@pytest.mark.parametrize("case", ALL[::STRIDE], ids=lambda case: case.name)
def test_a_layer_with_an_option(case):
    keras.utils.set_random_seed(0)
    model = randomize(case.network())
    x = samples(model)
    if message := refusal(case):
        # Without a rule it is an UnsupportedLayerError, and a ValueError if it cannot be copied.
        with pytest.raises(
            (keras_qat.UnsupportedLayerError, ValueError), match=f"'own'.*{message}"
        ):
            keras_qat.quantize(model, calibration_data=x)
        return
    expected, expected_losses = model.predict(x, verbose=0), losses(model, x)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert sqnr(expected, qmodel.predict(x, verbose=0)) >= LEAST_SQNR
    assert losses(qmodel, x) == pytest.approx(expected_losses, rel=0.05, abs=1e-6)
    if case.kind in RANDOM or "before" not in names(model):
        return  # gradients of other draws, or none
    least = CLIPPED_COSINE if case.value == "exponential" else LEAST_COSINE
    pairs = list(zip(gradients(model, x), gradients(qmodel, x), strict=True))
    largest = max(np.linalg.norm(wanted) for wanted, _ in pairs)
    for wanted, found in pairs:
        if np.linalg.norm(wanted) > NO_GRADIENT * largest:
            assert cosine(wanted, found) >= least


def names(model):
    return {layer.name for layer in model.layers}


def test_the_generator_knows_every_option_of_every_layer():
    unknown = [
        f"{kind.__name__}.{option}"
        for kind in kinds()
        for option in options_of(kind)
        if values_of(kind, option) is None
    ]
    assert not unknown
