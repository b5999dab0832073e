"""Layers that augment images act in training alone: the file begins with the convolution."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.integer import ops
from keras_qat.layer_rules.rule import Output
from keras_qat.layer_rules.table import RULES
from tests.models import randomize
from tests.seams import assert_no_flip_and_no_mismatch

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers

ARGUMENTS = {
    layers.RandomBrightness: (0.5,),
    layers.RandomColorDegeneration: (0.5,),
    layers.RandomContrast: (0.5,),
    layers.RandomCrop: (8, 8),
    layers.RandomHue: (0.5,),
    layers.RandomPosterization: (3,),
    layers.RandomRotation: (0.5,),
    layers.RandomSaturation: (0.5,),
    layers.RandomSharpness: (0.5,),
    layers.RandomShear: (0.5, 0.5),
    layers.RandomTranslation: (0.5, 0.5),
    layers.RandomZoom: (0.5,),
}
AUGMENTATIONS = [kind for kind in RULES if kind.__name__.startswith(("Rand", "AugMix"))]


def pixels(examples=32):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (examples, 8, 8, 3)).astype(np.float32)


def network(*augmentations):
    inputs = x = keras.Input((8, 8, 3), name="image")
    for layer in augmentations:
        x = layer(x)
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="dense")(x)))


def augmentations():
    return layers.RandomFlip(name="flip"), layers.RandomRotation(0.2, name="rotation")


def quantized(model, bits=4):
    config = keras_qat.LSQConfig(
        weight_bits=bits, activation_bits=bits, first_and_last_bits=bits, input_bits=bits
    )
    return keras_qat.quantize(model, config, calibration_data=pixels())


@pytest.mark.parametrize("kind", AUGMENTATIONS, ids=lambda kind: kind.__name__)
def test_each_does_nothing_in_inference(kind):
    layer = kind(*ARGUMENTS.get(kind, ()))
    np.testing.assert_array_equal(layer(pixels(2), training=False), pixels(2))
    assert RULES[kind].output is Output.ROUND_TO_INPUT


def test_the_file_computes_what_the_model_without_them_does(tmp_path):
    model, without = network(*augmentations()), network()
    for layer in without.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    qmodel, plain = quantized(model), quantized(without)
    np.testing.assert_array_equal(
        qmodel.predict(pixels(), verbose=0), plain.predict(pixels(), verbose=0)
    )
    graph = qmodel.to_integer()
    assert isinstance(graph.ops[0], ops.LinearOp)  # the Rescaling behind them is no op either
    assert_no_flip_and_no_mismatch(qmodel, pixels(), tmp_path / "m.tflite")


def test_training_reads_augmented_images_on_the_grid_of_the_input():
    qmodel = quantized(network(*augmentations()), bits=2)
    quantizer = qmodel.get_layer("image_quantizer")
    seen = []
    quantizer.tap = lambda values: seen.append(np.array(values))
    qmodel(pixels(), training=True)
    image, _, rotated = seen  # the tensor itself, flipped, rotated
    assert not np.array_equal(image, rotated)
    codes = rotated / np.float32(quantizer.scale)
    np.testing.assert_array_equal(codes, np.round(codes))
    assert set(np.unique(codes)) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.slow
def test_it_trains_and_reloads(tmp_path):
    augmentation = keras.Sequential(augmentations(), name="augmentation")
    qmodel = quantized(network(augmentation))
    qmodel.compile("adam", "mse")
    qmodel.fit(pixels(), np.ones((32, 3)), epochs=2, verbose=0)
    qmodel.save(tmp_path / "qat.keras")
    again = keras_qat.load_model(tmp_path / "qat.keras")
    np.testing.assert_array_equal(
        again.predict(pixels(), verbose=0), qmodel.predict(pixels(), verbose=0)
    )
    assert again.evaluate(pixels(), np.ones((32, 3)), verbose=0) == qmodel.evaluate(
        pixels(), np.ones((32, 3)), verbose=0
    )
