"""Weights of other bits do not load without a word."""

import warnings

import numpy as np
import pytest

import keras_qat
from tests.models import dense_network, points

X, _ = points(64)
KINDS = {
    "ste": keras_qat.STEConfig,
    "lsq": keras_qat.LSQConfig,
    "gdnsq": keras_qat.GDNSQConfig,
    "dorefa": keras_qat.DoReFaConfig,
}


def quantized(kind, bits, **options):
    config = kind(weight_bits=bits, **options)
    return keras_qat.quantize(dense_network(), config, calibration_data=X)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_other_bits_are_told_by_the_name_of_their_layer(kind, tmp_path):
    path = tmp_path / "net.weights.h5"
    quantized(KINDS[kind], 4, activation_bits=8).save_weights(path)
    other = quantized(KINDS[kind], 2, activation_bits=8)
    told = r"other grids: 'hidden/weights' \(4 bits, codes -\d+ to \d+ in the file, 2 bits, codes"
    with pytest.warns(UserWarning, match=told):
        other.load_weights(path)
    same = quantized(KINDS[kind], 4, activation_bits=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same.load_weights(path)


def test_the_grids_of_activations_count_and_a_list_is_cut(tmp_path):
    path = tmp_path / "net.weights.h5"
    quantized(keras_qat.LSQConfig, 4, activation_bits=4, first_and_last_bits=4).save_weights(path)
    other = quantized(keras_qat.LSQConfig, 3, activation_bits=3, first_and_last_bits=3)
    with pytest.warns(UserWarning, match=r"'first_relu/activations' \(4 bits, codes 0 to 15.*more"):
        other.load_weights(path)


def test_a_width_that_a_file_brings_along_fits(tmp_path):
    path = tmp_path / "net.weights.h5"
    wide = quantized(keras_qat.WaveQConfig, 6, activation_bits=8)
    wide.save_weights(path)
    narrow = quantized(keras_qat.WaveQConfig, 4, activation_bits=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrow.load_weights(path)
    np.testing.assert_array_equal(narrow.predict(X, verbose=0), wide.predict(X, verbose=0))


def test_weights_of_the_same_bits_are_loaded_as_those_of_a_float_model(tmp_path):
    path = tmp_path / "net.weights.h5"
    for make in (dense_network, lambda: quantized(keras_qat.LSQConfig, 2)):
        one, other = make(), make()
        one.get_layer("hidden").set_weights(
            [each + 0.25 for each in one.get_layer("hidden").get_weights()]
        )
        one.save_weights(path)
        other.load_weights(path)
        np.testing.assert_array_equal(other.predict(X, verbose=0), one.predict(X, verbose=0))
