"""The two layers of GDNSQ: widths and targets, the rate, calibration, and what they refuse."""

import functools

import keras
import numpy as np
import pytest

from keras_qat.errors import LoweringError
from keras_qat.quantizers import GDNSQActivationQuantizer
from keras_qat.quantizers.initial_scale import Histogram
from tests.quantizers.gdnsq_layers import (
    CHANNELS,
    activations,
    assert_same,
    both,
    either,
    every_offset,
    every_target,
    gradients,
    histogram,
    kernel,
    normal,
    set_log_scale,
    state,
    weights,
)

pytestmark = pytest.mark.slow_beyond(1)

# What they refuse.


def test_a_free_offset_has_no_integers_and_says_what_to_do():
    what_to_do = r'free offset.*no whole number of steps.*Train with offset="snapped"'
    quantizer = weights(offset="free")
    for refused in (
        lambda: quantizer.codes(kernel()),
        lambda: quantizer.qparams(),
        lambda: activations(offset="free", name="relu_quantizer").codes(np.float32([1.0])),
        lambda: activations(offset="free", name="relu_quantizer").qparams(),
    ):
        with pytest.raises(LoweringError, match=what_to_do):
            refused()
    with pytest.raises(LoweringError, match=f"'conv' has a {what_to_do}"):
        quantizer.deployed_codes(kernel(), "conv")


def test_more_levels_than_int8_holds_are_refused():
    quantizer = weights(4)
    message = (
        r"layer 'conv' have learned 102[345] levels \(10\.0 bits\) in their widest channel, "
        r"with codes up to \d+; int8 holds 127. Their target is 4 bits: train on with .*Schedule"
    )
    with pytest.raises(LoweringError, match=message):
        quantizer.deployed_codes(kernel(), "conv")
    quantizer.narrow(kernel())
    assert np.abs(quantizer.deployed_codes(kernel(), "conv")).max() <= 127
    quantizer = activations(4, name="relu_quantizer")
    message = r"'relu_quantizer' has learned 1024 levels \(10\.0 bits\); int8 holds 256. .* 4 bits"
    with pytest.raises(LoweringError, match=message):
        quantizer.qparams()
    quantizer.narrow()
    assert quantizer.qparams().levels == 16


# Widths and targets.


@every_target
@every_offset
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
def test_narrowing_just_meets_the_target_and_leaves_alone_what_meets_it(bits, offset, per_channel):
    quantizer = weights(bits, offset=offset, per_channel=per_channel)
    fitting = np.ptp(kernel(), axis=(0, 1, 2) if per_channel else None)
    met = fitting / (2.0**bits) * 1.7  # far fewer levels than the target allows, off the table
    start = np.array(quantizer.log_scale)
    if per_channel:
        start[1:3] = np.log2(met)[1:3]
        set_log_scale(quantizer, start)
    quantizer.narrow(kernel())
    after = np.asarray(quantizer.log_scale)
    assert quantizer.meets_target(kernel())
    moved = after != start
    assert moved.tolist() == ([True, False, False, True] if per_channel else True)
    # As many levels as fit at a step that is rounded up to an entry of the table; in whole steps
    # there are as many up as down.
    most, found = (
        2**bits - (offset == "snapped" and bits >= 7),
        np.asarray(quantizer.levels(kernel())),
    )
    fewest = np.rint((most - 1) * 2.0 ** (-1 / 256)) + 1
    assert np.all((fewest <= found[moved]) & (found[moved] <= most))
    again = state(quantizer)
    quantizer.narrow(kernel())
    assert_same(state(quantizer), again)


@pytest.mark.parametrize("bits", [7, 8])
def test_narrowing_whole_steps_avoids_the_tie_between_two_codes(bits):
    """`2**bits - 1` steps from end to end, a number in the table, would end in half a step."""
    values = np.float32([[-(2.0**bits - 1.0)], [2.0**bits - 1.0]]) / 256
    quantizer = weights(bits, values)
    quantizer.narrow(values)
    assert quantizer.meets_target(values)
    assert np.asarray(quantizer.codes(values)).ravel().tolist() == [
        1 - 2 ** (bits - 1),
        2 ** (bits - 1) - 1,
    ]


@every_target
@every_offset
def test_narrowing_activations_just_meets_the_target(bits, offset):
    quantizer = activations(bits, offset=offset)
    lowest = float(quantizer.offset)
    quantizer.narrow()
    assert quantizer.meets_target()
    assert float(quantizer.levels()) == 2**bits
    assert float(quantizer.offset) == lowest
    again = state(quantizer)
    quantizer.narrow()
    assert_same(state(quantizer), again)


@pytest.mark.parametrize("start", [-9.0, 0.7], ids=["from_above", "from_below"])
@pytest.mark.parametrize("bits", [1, 4, 8])
@both
def test_refitting_gives_every_grid_all_its_levels(kind, bits, start):
    quantizer, _, arguments = either(kind, bits)
    set_log_scale(quantizer, np.full(quantizer.log_scale.shape, start))
    assert not quantizer.holds
    quantizer.hold(*arguments, refit=True)
    most = 2**bits - (kind == "weights" and bits >= 7)
    np.testing.assert_array_equal(quantizer.levels(*arguments), most)
    assert quantizer.meets_target(*arguments)
    assert quantizer.holds


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_a_target_is_met_up_to_half_a_level_more(bits):
    """In whole steps half a level up is half a level down too."""
    values = np.float32([[-1.0], [1.0]])
    quantizer = weights(bits, values)
    edge = 2.0**bits - (1.0 if bits >= 7 else 0.5)
    for share, met in ((0.99, True), (1.01, False)):
        set_log_scale(quantizer, np.log2([2.0 / (edge * share)]))
        assert bool(quantizer.meets_target(values)) == met
        codes = np.asarray(quantizer.codes(np.linspace(-1, 1, 2001, dtype=np.float32)[:, None]))
        assert (len(np.unique(codes)) <= 2**bits) == met


@every_offset
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_start_at_the_target_meets_it(bits, offset):
    """A start below the target is the target."""
    for start_bits in (1, bits):
        quantizer = weights(bits, start_bits=start_bits, offset=offset)
        assert quantizer.meets_target(kernel())
        np.testing.assert_allclose(quantizer.levels(kernel()), 2**bits)
        quantizer = activations(bits, start_bits=start_bits, offset=offset)
        assert quantizer.meets_target()
        assert float(quantizer.levels()) == 2**bits


def test_the_range_of_least_error_cuts_off_a_rare_value():
    """Of 1,000 values up to 1 and a single one of 5, two bits represent the many."""
    centers = np.append(np.linspace(0.0, 1.0, 1000), 5.0)
    values = Histogram(centers, np.ones(len(centers)), 0.0, 5.0)

    def error(start_range):
        quantizer = GDNSQActivationQuantizer(2, signed=False, start_bits=2, start_range=start_range)
        quantizer.build((None, 4))
        quantizer.calibrate(values)
        rounded = np.asarray(quantizer(centers.astype(np.float32)))
        return float(np.mean((rounded - centers) ** 2)), rounded.max()

    least, cut = error("least_error")
    widest, uncut = error("min_max")
    assert least < widest
    assert cut < 5.0 * 0.9 < uncut * 1.02


# The rate.


@both
@pytest.mark.parametrize("rate", [0.25, 1.0, 8.0, 1024.0])
def test_a_rate_moves_nothing_and_scales_the_gradients_of_logarithms(kind, rate):
    quantizer, x, arguments = either(kind)
    set_log_scale(quantizer, np.asarray(quantizer.log_scale) + np.float32(4.1234567))
    upstream = normal(2, *x.shape)
    before = quantizer(x), np.array(quantizer.log_scale), quantizer.bit_width(*arguments)
    slopes = gradients(quantizer, x, upstream)
    quantizer.set_rate(8.0)
    quantizer.set_rate(rate)
    assert_same((quantizer(x), quantizer.log_scale, quantizer.bit_width(*arguments)), before)
    names = ["x", "log_scale", "log_range", "offset"][: len(slopes)]
    assert len(slopes) == (2 if kind == "weights" else 4)
    for name, found, slope in zip(names, gradients(quantizer, x, upstream), slopes, strict=True):
        factor = np.float32(rate if name.startswith("log_") else 1.0)
        np.testing.assert_array_equal(found, slope * factor, err_msg=name)


@both
def test_a_rate_changes_nothing_of_what_starts_over(kind):
    def started(rate, method):
        quantizer, x, arguments = either(kind)
        quantizer.set_rate(rate)
        if method == "calibrate" and kind == "weights":
            quantizer.calibrate_weights(3 * kernel())
        elif method == "calibrate":
            quantizer.calibrate(histogram(-4.0, 4.5))
        elif method == "narrow":
            quantizer.narrow(*arguments)
        else:
            quantizer.set_scale(np.full(quantizer.scale.shape, 0.3))
        return quantizer(x), quantizer.log_scale

    for method in ("calibrate", "narrow", "set_scale"):
        assert_same(started(16.0, method), started(1.0, method))


@pytest.mark.parametrize("rate", [0.0, -2.0, 3.0, 0.3, float("inf"), float("nan")])
@both
def test_a_rate_that_would_round_is_refused(kind, rate):
    quantizer, _, _ = either(kind)
    before = state(quantizer)
    with pytest.raises(ValueError, match=f"positive power of two. Received: {rate!r}"):
        quantizer.set_rate(rate)
    assert_same(state(quantizer), before)


def test_rate_hold_and_seed_are_saved_with_the_model(tmp_path):
    inputs = keras.Input((CHANNELS,))
    quantizer = activations(3)
    model = keras.Model(inputs, quantizer(inputs))
    quantizer.set_rate(4.0)
    quantizer.narrow()
    quantizer.hold()
    quantizer.draw_noise_sign(np.zeros((2, CHANNELS), np.float32))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[-1]
    assert_same(state(loaded), state(quantizer))
    assert float(loaded.rate) == 4.0
    assert float(loaded.held_levels) == 8.0
    x = np.zeros((50, CHANNELS), np.float32)
    for ours, theirs in zip(loaded.draw_noise_sign(x), quantizer.draw_noise_sign(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Calibration.


@pytest.mark.parametrize("start_bits", [8, 10, 16])
@pytest.mark.parametrize("bits", [2, 8], ids=["half", "whole"])
@every_offset
def test_calibration_starts_every_channel_at_the_bits_asked_for(offset, bits, start_bits):
    values = 400 * kernel()  # no channel below the smallest step
    quantizer = weights(bits, values, offset=offset, start_bits=start_bits)
    # A table entry is 1/256 bit wide, and whole steps have one level less than 2**bits.
    np.testing.assert_allclose(quantizer.bit_width(values), start_bits, atol=1 / 128)
    quantizer = activations(bits, offset=offset, start_bits=start_bits)
    np.testing.assert_allclose(quantizer.bit_width(), start_bits, atol=1 / 128)
    if start_bits == bits:  # nothing to learn: it deploys as it is
        quantizer = weights(bits, values, start_bits=start_bits)
        assert quantizer.meets_target(values)
        assert np.abs(quantizer.deployed_codes(values, "conv")).max() == 127


@every_offset
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_channels_without_data_start_at_the_smallest_step(offset, bits):
    values = np.zeros((6, CHANNELS), np.float32)
    values[:, 1], values[:, 2] = 0.7, np.linspace(0, 1e-9, 6)
    values[:, 3] = np.linspace(-1, 1, 6)
    quantizer = weights(bits, values, offset=offset)
    flat = [0, 2] if offset == "snapped" else [0, 1, 2]  # zero is in the range of snapped grids
    np.testing.assert_allclose(np.asarray(quantizer.log_scale)[flat], -12.0, atol=0.01)
    widths = np.asarray(quantizer.bit_width(values))
    assert np.all(widths[[0, 2]] < 0.01)
    quantizer.narrow(values)
    assert quantizer.meets_target(values)
    output = np.asarray(quantizer(values))
    assert np.all(np.isfinite(output))
    np.testing.assert_array_equal(output[:, 0], 0)
    np.testing.assert_allclose(output[:, 1], 0.7, rtol=0.01 if offset == "snapped" else 1e-6)
    for found in gradients(quantizer, values, normal(3, *values.shape), training=True):
        assert np.all(np.isfinite(found))
    if offset == "snapped":
        codes = quantizer.deployed_codes(values, "conv")
        np.testing.assert_array_equal(codes[:, 0], 0)


@pytest.mark.parametrize(
    ("low", "high", "signed"), [(0.0, 0.0, True), (0.0, 0.0, False), (-3.0, -1.0, False)]
)
def test_a_tensor_of_zeros_is_frozen_until_it_is_calibrated_again(low, high, signed):
    quantizer = activations(2, low, high, signed)
    assert not quantizer.trainable
    assert quantizer.meets_target()
    assert quantizer.qparams().levels == 2
    np.testing.assert_array_equal(quantizer(np.zeros(3, np.float32)), 0)
    quantizer.calibrate(histogram(0.0, 1.0))
    assert quantizer.trainable
    np.testing.assert_allclose(quantizer.bit_width(), 10.0, atol=1 / 128)


def test_a_constant_tensor_has_the_range_from_zero_to_its_value():
    quantizer = activations(4, 0.8, 0.8)
    assert quantizer.trainable
    # Half a step of 10 bits, and half an entry of the table.
    np.testing.assert_allclose(quantizer(np.float32([0.8])), 0.8, rtol=2e-3)
    assert (quantizer.grid.qmin, quantizer.grid.qmax) == (0, 1023)


@both
def test_random_signs_are_drawn_in_training_only_and_follow_the_seed(kind):
    quantizer, x, _ = either(kind)
    upstream = normal(2, *x.shape)
    slope = functools.partial(gradients, quantizer, x, upstream)
    quiet, seed = slope(), np.array(quantizer.seed_generator.state)
    assert_same(slope(), quiet)
    np.testing.assert_array_equal(quantizer.seed_generator.state, seed)
    first, second = slope(training=True), slope(training=True)
    assert np.any(np.asarray(quantizer.seed_generator.state) != seed)
    assert np.all(first[1] != second[1])
    assert np.all(first[1] != quiet[1])
    for found in (first, second):  # the signs are in the gradient of the step alone
        np.testing.assert_array_equal(found[0], quiet[0])
        assert_same(found[2:], quiet[2:])
    np.testing.assert_array_equal(quantizer(x, training=True), quantizer(x))
    again, x, _ = either(kind)
    assert_same(gradients(again, x, upstream, training=True), first)


@both
@pytest.mark.parametrize("options", [{"noise_gradient": "none"}, {"estimator": "lsq"}], ids=str)
def test_what_needs_no_signs_draws_none(kind, options):
    quantizer, x, _ = either(kind, **options)
    upstream = normal(2, *x.shape)
    assert not [v for v in quantizer.variables if "seed_generator" in v.path]
    assert_same(gradients(quantizer, x, upstream, training=True), gradients(quantizer, x, upstream))
