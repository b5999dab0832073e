"""Grids that arrived at their target: they keep their codes."""

import numpy as np

from tests.quantizers.gdnsq_layers import (
    assert_same,
    both,
    either,
    every_target,
    kernel,
)


@every_target
@both
def test_a_held_grid_keeps_its_levels_however_the_step_moves(kind, bits):
    quantizer, x, arguments = either(kind, bits)
    assert not quantizer.meets_target(*arguments)
    quantizer.hold(*arguments)
    shape = quantizer.log_scale.shape
    for log_scale in (-12.0, -6.3, -3.0, 0.0):
        quantizer._log_scale.assign(np.full(shape, log_scale))
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
        quantizer.fit_target(*arguments)
        quantizer._log_scale.assign(np.asarray(quantizer.log_scale) + np.float32(spare))
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


@both
def test_a_free_grid_cannot_be_held(kind):
    quantizer, x, arguments = either(kind, 2, offset="free")
    before, widths = quantizer(x), quantizer.bit_width(*arguments)
    quantizer.hold(*arguments)
    np.testing.assert_array_equal(quantizer(x), before)
    np.testing.assert_array_equal(quantizer.bit_width(*arguments), widths)
    assert not quantizer.meets_target(*arguments)
    assert not quantizer.holds
