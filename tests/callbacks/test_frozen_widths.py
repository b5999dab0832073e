"""Frozen layers beside learned bit widths: at their targets, and exportable."""

import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule
from keras_qat.training.learned_bit_widths import learned_widths
from tests.models import dense_network, points

X, Y = points(64)
CONFIG = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, start_bits=3)


def frozen(model, *names):
    for name in names:
        model.get_layer(name).trainable = False
    return model


def fitted(model, *callbacks):
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=list(callbacks))
    return model


def kernel(model):
    return np.array(model.get_layer("hidden").kernel)


@pytest.mark.parametrize("offset", ["snapped", "free"])
def test_weights_that_are_frozen_get_the_grid_of_their_target_at_once(offset):
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, offset=offset)
    float_model = frozen(dense_network(), "hidden")
    qmodel = keras_qat.quantize(float_model, config, calibration_data=X)
    (width,) = [each for each in learned_widths(qmodel, frozen=True) if each.name == "hidden"]
    assert width not in qmodel.learned_widths
    assert width.meets_target()
    assert not qmodel.meets_targets()  # the others start at 10 bits
    quantized = np.array(width.quantizer(width.layer.channels_last_kernel()))
    assert max(len(np.unique(each)) for each in quantized.T) <= 4
    error = np.sqrt(np.mean(np.square(quantized - kernel(float_model))))
    assert error < 0.3 * np.std(kernel(float_model))  # steps of the least squared error


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_frozen_layer_keeps_its_weights_as_in_float_and_the_model_exports(when, tmp_path):
    float_model, frozen_before = dense_network(), when == "before"
    if frozen_before:
        frozen(float_model, "hidden")
    qmodel = keras_qat.quantize(float_model, CONFIG, calibration_data=X)
    if not frozen_before:
        frozen(qmodel, "hidden", "hidden_relu_quantizer")
        frozen(float_model, "hidden")
    before = kernel(float_model)
    fitted(qmodel, GDNSQSchedule(verbose=0))
    np.testing.assert_array_equal(kernel(fitted(float_model)), before)
    np.testing.assert_array_equal(kernel(qmodel), before)
    assert qmodel.meets_targets()
    codes = qmodel.get_layer("hidden").weight_codes()
    assert max(len(np.unique(each)) for each in codes.T) <= 4
    assert qmodel.get_layer("hidden_relu_quantizer").qparams().levels <= 4
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=X, verbose=False)
    assert report.mismatches == 0


def test_a_model_whose_frozen_widths_are_too_wide_does_not_count_as_ready():
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, start_bits=2)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    for width in qmodel.learned_widths:
        width.narrow()
    assert qmodel.meets_targets()
    (width,) = [each for each in qmodel.learned_widths if each.name == "hidden"]
    width.quantizer._set_logarithms(width.quantizer.log_scale - 3.0)
    frozen(qmodel, "hidden")
    assert not qmodel.meets_targets()
    qmodel.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    with pytest.warns(UserWarning, match="GDNSQSchedule"):
        qmodel.fit(X[:4], Y[:4], verbose=0)
