"""What Keras compiles of a model that computes as TFLite Micro."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.quantizers import Quantizer
from tests.end_to_end.test_inference_of_tflm import X, every_kind_of_op, quantized
from tests.models import randomize, residual_network
from tests.seams import target_flips

layers = keras.layers


def small_network():
    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, name="conv")(inputs)))
    return randomize(keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x))))


def test_what_keras_traced_is_traced_anew():
    """`predict`, validation inside `fit`, `layer_codes`, and plain models over the same layers."""
    keras.utils.set_random_seed(0)
    qmodel, y = quantized(small_network()), np.zeros((len(X), 5))
    qmodel.compile("sgd", "mse")
    part = keras.Model(qmodel.inputs, qmodel.layers[-2].output)
    outer = keras.Sequential([keras.Input(X.shape[1:]), qmodel])

    def seen():
        return (
            qmodel.predict(X, verbose=0),
            part.predict(X, verbose=0),
            outer.predict(X, verbose=0),
            *qmodel.layer_codes(X).values(),
        )

    def validated():
        fit = {"validation_data": (X, y), "callbacks": [frozen], "reestimate": False}
        history = qmodel.fit(X, y, epochs=1, verbose=0, **fit)
        return history.history["val_loss"][0], qmodel.evaluate(X, y, verbose=0)

    weights = qmodel.get_weights()
    frozen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: qmodel.set_weights(weights)
    )
    before, (val_loss, _) = seen(), validated()
    qmodel.compute_as("tflm")
    after, (tflm_val_loss, tflm_loss) = seen(), validated()
    for old, new in zip(before[:3], after[:3], strict=True):
        assert not np.array_equal(old, new)
    np.testing.assert_array_equal(after[0], after[2])
    assert tflm_val_loss == pytest.approx(tflm_loss, rel=1e-6)
    assert tflm_val_loss != val_loss
    qmodel.compute_as("litert")
    for old, again in zip(before, seen(), strict=True):
        np.testing.assert_array_equal(old, again)


def test_a_fit_goes_on_after_an_export_in_a_callback(tmp_path):
    """The export infers as its target meanwhile, and the step that trains stays compiled."""
    qmodel, y = quantized(small_network()), np.zeros((len(X), 5))
    qmodel.compile("sgd", "mse")
    steps = []

    def export(epoch, logs):
        tflite_export.export(qmodel, tmp_path / "net.tflite", target="tflm", verbose=False)
        steps.append(qmodel.train_function)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=export)
    fit = {"epochs": 2, "verbose": 0, "validation_data": (X, y), "callbacks": [callback]}
    history = qmodel.fit(X, y, **fit).history
    assert len(history["val_loss"]) == 2
    assert steps[0] is steps[1] is not None
    assert qmodel.computes_as == "litert"


@pytest.mark.parametrize(
    ("network", "bits"),
    [
        (residual_network, 2),
        pytest.param(every_kind_of_op, 2, marks=pytest.mark.slow),
        pytest.param(every_kind_of_op, 8, marks=pytest.mark.slow),
    ],
)
def test_a_jit_compiler_changes_nothing(network, bits):
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    qmodel = quantized(network(), config)
    qmodel.compute_as("tflm")
    assert target_flips(qmodel, X, "tflm") == {}
    on_grids = [each.output for each in qmodel.layers if isinstance(each, Quantizer)]
    inner = keras.Model(qmodel.inputs, on_grids)
    inner.compile(jit_compile=False)
    expected = inner.predict(X, verbose=0)
    inner.compile(jit_compile=True)
    for found, plain in zip(inner.predict(X, verbose=0), expected, strict=True):
        np.testing.assert_array_equal(found, plain)
