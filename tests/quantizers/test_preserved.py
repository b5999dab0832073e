"""Preserved zeros and clusters of one kernel: exact values, gradients, grids with a zero."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_qat.quantizers import (
    DoReFaQuantizer,
    GDNSQWeightQuantizer,
    Grid,
    LSQWeightQuantizer,
    STEWeightQuantizer,
    WaveQWeightQuantizer,
)
from keras_qat.quantizers.preserved import first_of_equals, tied

PRUNED = np.float32([[0.0, 0.5], [0.25, 0.0], [-0.75, 0.0], [0.0, -1.0]])
CLUSTERED = np.float32([[0.5, 0.5], [-0.25, 0.5], [0.5, 0.0], [-0.25, -1.0]])


def on_grid(of_weights):
    return lambda bits, **kwargs: of_weights(Grid.for_weights(bits), **kwargs)


QUANTIZERS = {
    "ste": on_grid(STEWeightQuantizer),
    "lsq": on_grid(LSQWeightQuantizer),
    "dorefa": DoReFaQuantizer,
    "waveq": WaveQWeightQuantizer,
    "gdnsq": GDNSQWeightQuantizer,
}
every_quantizer = pytest.mark.parametrize("method", QUANTIZERS)


def remembering(method, kernel, bits=2, **options):
    quantizer = QUANTIZERS[method](bits, per_channel=True, **options)
    quantizer.build(kernel.shape)
    quantizer.remember(kernel)
    quantizer.calibrate_weights(kernel)
    return quantizer


def gradient(quantizer, kernel, upstream):
    kernel = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        loss = ops.sum(quantizer(kernel, training=True) * upstream)
    return tape.gradient(loss, kernel).numpy()


@every_quantizer
@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_zeros_have_code_zero_and_no_gradient(method, bits):
    quantizer = remembering(method, PRUNED, bits, preserve_sparsity=True)
    moved = PRUNED + np.float32(0.3)  # as no optimizer would, where the gradient is zero
    codes = np.asarray(quantizer.codes(moved))
    assert not codes[PRUNED == 0].any()
    assert quantizer.bits == bits
    values = np.asarray(quantizer(moved))
    np.testing.assert_array_equal(values, codes.astype(np.float32) * np.asarray(quantizer.scale))
    found = gradient(quantizer, PRUNED, np.float32(1.0))
    np.testing.assert_array_equal(found[PRUNED == 0], 0.0)
    assert np.any(found != 0)


@pytest.mark.parametrize("method", ["dorefa", "waveq", "gdnsq"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_grids_without_a_zero_get_one_for_one_level(method, bits):
    kernel = np.linspace(-1.0, 1.0, 99, dtype=np.float32)[:, None]
    options = {"start_bits": bits} if method == "gdnsq" else {}
    quantizer = remembering(method, kernel, bits, preserve_sparsity=True, **options)
    top = 2 ** (bits - 1) - 1
    expected = np.arange(-top, top + 1)
    np.testing.assert_array_equal(np.unique(np.asarray(quantizer.codes(kernel))), expected)
    assert quantizer.learned_bits(kernel) == bits


def test_a_learned_width_stays_where_there_is_a_zero():
    quantizer = remembering("waveq", PRUNED, 3, preserve_sparsity=True)
    assert float(quantizer.width.constraint(ops.array(1.2))) == 2.0
    quantizer.width.assign(2.0)
    assert np.unique(np.asarray(quantizer.codes(PRUNED))).tolist() == [-1, 0, 1]
    # Two steps from -1 to 1 at a width of 2: the ends are at 0 and 2, zero is at 1.
    position = np.asarray(quantizer.width_position(PRUNED))
    assert position[1:, 0].tolist() == pytest.approx([1.3, 0.0, 1.0], abs=0.1)


def test_first_of_equals():
    expected = [[0, 1], [2, 1], [0, 5], [2, 7]]
    assert first_of_equals(CLUSTERED, per_channel=True).tolist() == expected
    expected = [[0, 0], [2, 0], [0, 5], [2, 7]]
    assert first_of_equals(CLUSTERED, per_channel=False).tolist() == expected


def test_a_cluster_is_its_first_weight_and_gets_the_mean_gradient():
    first = ops.convert_to_tensor(first_of_equals(CLUSTERED, per_channel=True))
    kernel = tf.Variable(CLUSTERED + np.arange(8, dtype=np.float32).reshape(4, 2))
    upstream = np.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
    with tf.GradientTape() as tape:
        values = tied(kernel, first)
        loss = ops.sum(values * upstream)
    np.testing.assert_array_equal(values, [[0.5, 1.5], [1.75, 1.5], [0.5, 5.0], [1.75, 6.0]])
    mean = tape.gradient(loss, kernel)
    np.testing.assert_array_equal(mean, [[3, 3], [5, 3], [3, 6], [5, 8]])


@every_quantizer
def test_equal_weights_keep_equal_codes(method):
    quantizer = remembering(method, CLUSTERED, 4, preserve_clusters=True)
    rng = np.random.default_rng(0)
    moved = CLUSTERED + rng.normal(0.0, 0.3, CLUSTERED.shape).astype(np.float32)
    codes = np.asarray(quantizer.codes(moved))
    for channel in range(2):
        for value in np.unique(CLUSTERED[:, channel]):
            assert np.unique(codes[CLUSTERED[:, channel] == value, channel]).size == 1


@every_quantizer
def test_what_is_remembered_is_saved_and_a_copy_by_configuration_remembers_nothing(method):
    options = {"preserve_sparsity": True, "preserve_clusters": True}
    quantizer = remembering(method, PRUNED, 3, **options)
    copy = type(quantizer).from_config(quantizer.get_config())
    assert (copy.preserve_sparsity, copy.preserve_clusters) == (True, True)
    copy.build(PRUNED.shape)
    assert np.all(copy.kept)
    copy.set_weights(quantizer.get_weights())
    np.testing.assert_array_equal(copy.kept, PRUNED != 0)
    np.testing.assert_array_equal(copy.codes(PRUNED + 1.0), quantizer.codes(PRUNED + 1.0))


def test_nothing_is_added_where_nothing_is_preserved():
    quantizer = remembering("ste", PRUNED)
    assert [weight.name for weight in quantizer.weights] == ["calibrated_scale"]
    kernel = keras.ops.convert_to_tensor(PRUNED)
    assert quantizer.prepare(kernel) is kernel
