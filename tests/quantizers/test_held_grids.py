"""Grids that arrived at their target: they keep their codes."""

import numpy as np
import pytest

from tests.quantizers.gdnsq_layers import (
    assert_same,
    both,
    either,
    every_target,
    kernel,
    set_log_scale,
    weights,
)

pytestmark = pytest.mark.slow_beyond(1)


@every_target
@both
def test_a_held_grid_keeps_its_levels_however_the_step_moves(kind, bits):
    quantizer, x, arguments = either(kind, bits)
    assert not quantizer.meets_target(*arguments)
    quantizer.hold(*arguments)
    shape = quantizer.log_scale.shape
    for log_scale in (-12.0, -6.3, -3.0, 0.0):
        set_log_scale(quantizer, np.full(shape, log_scale))
        codes = np.asarray(quantizer.codes(x))
        for channel in np.moveaxis(codes, -1, 0) if shape else [codes]:
            assert len(np.unique(channel)) <= 2**bits
        assert np.abs(codes).max() <= (127 if kind == "weights" else 255)
        assert quantizer.meets_target(*arguments)
        np.testing.assert_array_equal(quantizer.bit_width(*arguments), bits)


@every_target
@both
def test_holding_a_grid_that_meets_its_target_moves_nothing(kind, bits):
    for spare in (0.0, 0.4):
        quantizer, x, arguments = either(kind, bits)
        fitting = quantizer._log_scale_of(*arguments, bits) if arguments else None
        if fitting is None:
            quantizer.narrow()
        else:
            set_log_scale(quantizer, fitting)
        set_log_scale(quantizer, np.asarray(quantizer.log_scale) + np.float32(spare))
        before = quantizer(x), quantizer.codes(x)
        quantizer.hold(*arguments)
        if kind == "weights":
            assert_same((quantizer(x), quantizer.codes(x)), before)
            quantizer.hold(2.0 * kernel())  # once held, it stays
            assert_same((quantizer(x), quantizer.codes(x)), before)
        else:  # a range of fewer levels is widened to all
            levels = int(quantizer.levels())
            assert levels == 2**bits
            inside = np.asarray(before[1]) < np.asarray(before[1]).max()
            np.testing.assert_array_equal(
                np.asarray(quantizer(x))[inside], np.asarray(before[0])[inside]
            )


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 6, 7, 8])
def test_a_channel_with_fewer_levels_keeps_them_if_told_to(bits, refit):
    """Its levels are those that it had, and no more however its weights grow."""
    values = kernel()
    quantizer = weights(bits)
    coarse = quantizer._log_scale_of(values, bits) + np.float32([0.0, 0.6, 1.0, 1.5])
    set_log_scale(quantizer, coarse)
    before = np.asarray(quantizer.levels(values))
    assert before[0] > before[3] >= 2
    quantizer.hold(values, refit=refit, fill=False)
    np.testing.assert_array_equal(quantizer.levels(values), before)
    np.testing.assert_allclose(quantizer.bit_width(values), np.log2(before), rtol=1e-6)  # float32
    for grown in (values, 4.0 * values):
        codes = np.asarray(quantizer.codes(grown))
        for channel, most in zip(np.moveaxis(codes, -1, 0), before, strict=True):
            assert len(np.unique(channel)) <= most
    filled = weights(bits)
    set_log_scale(filled, coarse)
    filled.hold(values, refit=refit)
    assert np.asarray(filled.levels(values))[3] > before[3]


def test_an_activation_with_fewer_levels_keeps_them_if_told_to():
    quantizer, _, _ = either("activations", 4)
    quantizer._divide_into(np.log2(11.0))
    assert float(quantizer.levels()) == 11.0
    quantizer.hold(refit=True, fill=False)
    assert float(quantizer.levels()) == 11.0
    assert quantizer.holds
    filled, _, _ = either("activations", 4)
    filled._divide_into(np.log2(11.0))
    filled.hold(refit=True)
    assert float(filled.levels()) == 16.0


@both
def test_a_free_grid_cannot_be_held(kind):
    quantizer, x, arguments = either(kind, 2, offset="free")
    before, widths = quantizer(x), quantizer.bit_width(*arguments)
    quantizer.hold(*arguments)
    np.testing.assert_array_equal(quantizer(x), before)
    np.testing.assert_array_equal(quantizer.bit_width(*arguments), widths)
    assert not quantizer.meets_target(*arguments)
    assert not quantizer.holds


@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_refitting_finds_the_step_of_the_least_squared_error(bits, per_channel):
    """No other step in the table, with the middle that it would have, is nearer to the weights."""
    values = kernel()

    def error(octaves):
        quantizer = weights(bits, per_channel=per_channel)
        set_log_scale(quantizer, quantizer._log_scale_of(values, bits) - np.float32(octaves))
        quantizer.hold(values)
        difference = np.square(np.asarray(quantizer(values)) - values)
        return difference.sum(axis=(0, 1, 2) if per_channel else None)

    quantizer = weights(bits, per_channel=per_channel)
    quantizer.hold(values, refit=True)
    found = np.square(np.asarray(quantizer(values)) - values)
    found = found.sum(axis=(0, 1, 2) if per_channel else None)
    for octaves in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0):
        assert (found <= error(octaves) * 1.0001).all()
    if bits <= 2:  # with more levels, these few weights are served best by their whole range
        assert (found < error(0.0)).any()
