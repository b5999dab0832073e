"""What is replaced by other layers: it computes the same in float, and it deploys."""

import keras
import numpy as np

import keras_qat
from keras_qat.keras_graph import nodes
from keras_qat.quantization.passes.to_layers import to_layers
from tests.models import images, randomize
from tests.seams import assert_no_flip_and_no_mismatch

layers = keras.layers


def after_a_layer(operation, shape=(6, 6, 4)) -> keras.Model:
    """The outputs of `operation(x)`, with a linear weight layer in front."""
    inputs = keras.Input(shape, name="input")
    outputs = operation(layers.Dense(shape[-1], name="before")(inputs))
    return randomize(keras.Model(inputs, outputs))


def assert_equal_in_layers(model: keras.Model, tolerance: float = 0.0) -> keras.Model:
    """The model of layers alone computes what the model computes."""
    plain = to_layers(model)
    assert all(isinstance(node.operation, layers.Layer) for node in nodes(plain))
    x = images(8, model.input_shape[1:])
    pairs = zip(_flat(plain, x), _flat(model, x), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    return plain


def _flat(model, x):
    return keras.tree.flatten(model.predict(x, verbose=0))


def assert_deploys(model: keras.Model, path, config=None) -> keras.Model:
    """It trains, the integers of all three rooms are equal, and a saved copy has them too."""
    x = images(16, model.input_shape[1:])
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    qmodel.compile(keras.optimizers.SGD(1e-3), "mse")
    qmodel.fit(x, [np.zeros(np.shape(each)) for each in _flat(model, x)], verbose=0)
    assert_no_flip_and_no_mismatch(qmodel, x, path / "net.tflite")
    qmodel.save(path / "net.keras")
    loaded = keras_qat.load_model(path / "net.keras")
    for ours, theirs in zip(_flat(loaded, x), _flat(qmodel, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return qmodel
