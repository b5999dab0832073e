"""GDNSQ's snapped grids: what their codes keep, and their gradients against the formulas."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qat.quantizers.gdnsq.integer_grids import (
    NOT_HELD,
    fake_quantize_snapped_activations,
    fake_quantize_snapped_weights,
    snapped_activation_grid,
    snapped_weight_grid,
)
from keras_qat.quantizers.gdnsq.noise_model import NoiseModel
from tests.golden_vectors import compiled, value_and_gradients
from tests.quantizers.integer_formulas import (
    CHANNELS,
    LN2,
    activation_formula,
    kernel,
    normal,
    table,
    weight_formula,
)

pytestmark = pytest.mark.slow_beyond(1)

every_estimator = pytest.mark.parametrize("estimator", ["ste", "ewgs", "aewgs", "lsq"])
every_mode = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
both_strides = pytest.mark.parametrize("half_steps", [True, False], ids=["half", "whole"])

seeds = st.integers(0, 2**16)
# From two levels to thousands of them, for ranges between 0.5 and 20.
log_scales = st.lists(st.floats(-9.0, 3.0, width=32), min_size=CHANNELS, max_size=CHANNELS)
# Fixed shapes: eager mode traces nothing, and hypothesis varies the numbers.
with_many_numbers = settings(max_examples=40, deadline=None)


def grid_of(weights, log_scale, half_steps, levels=NOT_HELD, middle=0.0):
    """The grid and the codes in NumPy."""
    log_scale = np.asarray(log_scale, np.float32)
    grid = snapped_weight_grid(weights, log_scale, half_steps, levels, middle)
    codes = np.asarray(grid.codes(weights))
    shape = (CHANNELS,)
    ends = [np.asarray(grid.lowest).reshape(shape), np.asarray(grid.steps).reshape(shape)]
    return codes, *ends, np.asarray(grid.unit).reshape(shape)


@both_strides
@with_many_numbers
@given(seed=seeds, log_scale=log_scales)
def test_no_weight_is_farther_than_half_a_step_from_its_code(half_steps, seed, log_scale):
    weights = kernel(seed)
    codes, _, _, unit = grid_of(weights, log_scale, half_steps)
    step = table(log_scale)
    np.testing.assert_allclose(unit, step / (2 if half_steps else 1), rtol=1e-7)
    # A few float32 roundings of a position of up to 10,000 steps.
    tolerance = 4 * np.finfo(np.float32).eps * np.abs(weights).max()
    assert (np.abs(codes * unit - weights) <= 0.5 * step + tolerance).all()


@both_strides
@with_many_numbers
@given(seed=seeds, log_scale=log_scales, bits=st.integers(1, 8))
def test_codes_are_those_that_the_grid_states(half_steps, seed, log_scale, bits):
    weights, levels = kernel(seed), 2.0**bits if seed % 2 else NOT_HELD
    codes, lowest, steps, _ = grid_of(weights, log_scale, half_steps, levels)
    if levels:
        assert (steps + 1 == (levels if half_steps else levels - 1)).all()
    position = (codes - lowest) / (2 if half_steps else 1)
    np.testing.assert_array_equal(position, np.rint(position))
    assert (position >= 0).all()
    assert (position <= steps).all()
    for channel, most in zip(np.moveaxis(codes, -1, 0), steps, strict=True):
        assert len(np.unique(channel)) <= most + 1


@both_strides
@with_many_numbers
@given(seed=seeds, log_scale=log_scales, bits=st.integers(1, 8))
def test_a_symmetric_channel_has_symmetric_codes(half_steps, seed, log_scale, bits):
    half = normal(seed, 3, 3, 1, CHANNELS)
    half = np.where(np.abs(half) < 1e-6, np.float32(1e-6), half)  # float32 loses the side of less
    weights = np.concatenate([half, -half], axis=2)
    for levels in (NOT_HELD, 2.0**bits):
        codes, *_ = grid_of(weights, log_scale, half_steps, levels)
        np.testing.assert_array_equal(codes[:, :, 0], -codes[:, :, 1])


@with_many_numbers
@given(seed=seeds, skew=st.floats(0.625, 1.5, width=32), widening=st.floats(1.0, 1.4))
def test_one_bit_about_zero_is_minus_a_and_plus_a(seed, skew, widening):
    """Ends that differ by less than half a step share a grid that is symmetric about zero."""
    weights = np.clip(normal(seed, 3, 3, 2, CHANNELS), -1.0, 1.0)
    weights[0, 0, 0], weights[0, 0, 1] = -1.0, skew
    weights = np.minimum(weights, skew)
    log_scale = np.full(CHANNELS, np.log2((1.0 + skew) * widening), np.float32)
    codes, lowest, steps, unit = grid_of(weights, log_scale, half_steps=True)
    assert (lowest == -1).all()
    assert (steps == 1).all()
    assert {-1.0, 1.0} == set(np.unique(codes))
    values = fake_quantize_snapped_weights(weights, log_scale)
    np.testing.assert_array_equal(values, codes * unit)


@pytest.mark.parametrize("bits", range(1, 9))
@settings(max_examples=10, deadline=None)
@given(seed=seeds, log_scale=log_scales, where=st.floats(-1.0, 1.0))
def test_held_at_its_target_every_grid_fits_in_int8(bits, seed, log_scale, where):
    half_steps = bits <= 6
    middle = float(np.rint(where * (2**bits - 1)))
    codes, lowest, steps, _ = grid_of(kernel(seed), log_scale, half_steps, 2.0**bits, middle)
    bound = 2 * (2**bits - 1) if half_steps else 2 ** (bits - 1) - 1
    assert bound <= 127
    assert (np.abs(codes) <= bound).all()
    assert (np.abs([lowest, lowest + steps * (2 if half_steps else 1)]) <= bound).all()


@with_many_numbers
@given(seed=seeds, log_scale=log_scales, middle=st.integers(-3, 3))
def test_a_held_grid_only_scales_with_its_step(seed, log_scale, middle):
    """Whatever its weights are."""
    for weights in (kernel(seed), 3.0 * kernel(seed + 1) - 0.5):
        _, lowest, steps, unit = grid_of(weights, log_scale, True, 4.0, middle)
        assert (lowest == middle - 3).all()
        assert (steps == 3).all()
        np.testing.assert_allclose(unit, table(log_scale) / 2, rtol=1e-7)


@both_strides
def test_a_channel_of_zeros_has_codes_of_zero(half_steps):
    zeros = np.zeros((5, CHANNELS), np.float32)
    for levels, middle in ((NOT_HELD, 0.0), (2.0, 1.0), (4.0, 0.0)):
        codes, lowest, steps, _ = grid_of(zeros, [-3] * CHANNELS, half_steps, levels, middle)
        assert not codes.any()
        assert half_steps <= (not lowest.any())
        assert half_steps <= (not steps.any())


@with_many_numbers
@given(
    offset=st.floats(-8.0, 4.0, width=32),  # above zero until its constraint is applied
    log_scale=st.floats(-8.0, 2.0, width=32),
    width=st.floats(-1.0, 10.0, width=32),
    bits=st.integers(1, 10),
)
@pytest.mark.parametrize("held", [False, True], ids=["learned", "held"])
def test_zero_is_on_every_activation_grid(held, offset, log_scale, width, bits):
    parameters = [np.float32(offset), np.float32(log_scale), np.float32(log_scale + width)]
    levels = held * 2.0**bits
    step, _, grid = snapped_activation_grid(*parameters, levels)
    lowest, highest = float(grid.qmin), float(grid.qmax)
    assert lowest <= 0 <= highest
    wanted = np.rint(table(parameters[2]) / table(parameters[1]) - 1)
    # The ratio of two entries of the table is an entry too, itself rounded to float32.
    if held or abs(table(parameters[2]) / table(parameters[1]) % 1 - 0.5) > 1e-3:
        assert highest - lowest == (levels - 1 if held else max(wanted, 1))
    x = np.linspace(-20, 20, 101, dtype=np.float32)
    assert x[50] == 0
    values = np.asarray(fake_quantize_snapped_activations(x, *parameters, held_levels=levels))
    assert values[50] == 0
    np.testing.assert_array_equal(values, np.asarray(step) * np.rint(values / np.asarray(step)))
    inside = np.abs(values) < np.abs(x)
    assert (np.abs(values[~inside] - x[~inside]) <= 0.5001 * float(step)).all()


def check_weight_gradient(estimator, half_steps, levels, log_scale, jit=False):
    """Compares with the formula; returns how many weights of each step a held grid cuts off."""
    weights, upstream = kernel(0), normal(1, 3, 3, 2, CHANNELS)
    weights[1, 1, 1, 3] = weights[..., 3].min()  # two share the lowest end
    sign = np.sign(normal(2, *weights.shape)) / 2
    log_scale = np.float32(log_scale)
    middle = np.float32([1, 0, -1, 0][: log_scale.size]).reshape(log_scale.shape)
    quantize = functools.partial(
        fake_quantize_snapped_weights,
        half_steps=half_steps,
        held_levels=levels,
        held_middle=middle,
        noise=NoiseModel.of(estimator, sign=sign),
    )
    output, (dw, dlog) = value_and_gradients(quantize, [weights, log_scale], upstream, jit)
    parts = [(..., slice(c, c + 1)) for c in range(CHANNELS)] if log_scale.ndim else [...]
    counts = []
    parameters = zip(np.ravel(log_scale), np.ravel(middle), np.ravel(dlog), strict=True)
    for part, (log, center, found) in zip(parts, parameters, strict=True):
        arrays = (weights[part], log, upstream[part], sign[part])
        w_hat, expected, slope, cut = weight_formula(*arrays, estimator, half_steps, levels, center)
        np.testing.assert_allclose(output[part], w_hat, rtol=1e-6)
        # Positions of up to 50 steps in float32, and sums over up to 72 weights.
        np.testing.assert_allclose(dw[part], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-3 * table(log))
        counts.append(cut.sum())
    return counts


@every_mode
@both_strides
@every_estimator
def test_the_gradient_of_weights_is_the_stated_one(estimator, half_steps, jit):
    """Held at four levels (three in whole steps), and not: one channel's range is narrower."""
    cut = check_weight_gradient(estimator, half_steps, 4.0, [-1.3, -0.2, -2.1, 3.0], jit)
    assert (np.array(cut) > 0).tolist() == [True, True, True, False]
    cut = check_weight_gradient(estimator, half_steps, NOT_HELD, [-1.3, -0.2, -2.1, 3.0], jit)
    assert cut == [0] * CHANNELS


@both_strides
@every_estimator
def test_one_step_for_a_whole_kernel_has_the_stated_gradient(estimator, half_steps):
    assert check_weight_gradient(estimator, half_steps, 4.0, -1.3)[0] > 0
    assert check_weight_gradient(estimator, half_steps, NOT_HELD, -1.3) == [0]


@both_strides
@every_estimator
def test_a_weight_that_a_held_grid_cuts_off_is_a_constant_of_its_code(estimator, half_steps):
    """All weights are far beyond the ends; none moves."""
    weights = np.repeat(np.float32([-9, -8, 8, 9])[:, None], CHANNELS, axis=1)
    upstream = normal(1, *weights.shape)
    quantize = functools.partial(
        fake_quantize_snapped_weights,
        half_steps=half_steps,
        held_levels=3.0,
        noise=NoiseModel.of(estimator),
    )
    log_scale = np.float32([-1.0, 0.0, 1.0, 0.3])
    output, (dw, dlog) = value_and_gradients(quantize, [weights, log_scale], upstream)
    assert not dw.any()
    step = table(log_scale)
    np.testing.assert_allclose(output, np.sign(weights) * step, rtol=1e-6)
    expected = LN2 * step * (upstream * np.sign(weights)).sum(axis=0)
    np.testing.assert_allclose(dlog, expected, rtol=1e-5, atol=1e-6)
    # The forward pass is linear in the step here: the next entry of the table moves it as stated.
    moved = np.asarray(quantize(weights, log_scale + np.float32(1 / 256)))
    change = table(log_scale + 1 / 256) - step
    slope = (upstream * (moved - output)).sum(axis=0) / change
    np.testing.assert_allclose(
        dlog / (LN2 * step), slope, rtol=1e-3, atol=1e-3
    )  # `change` is small


@both_strides
def test_without_noise_signs_or_without_their_term_the_rest_of_the_gradient_stays(half_steps):
    weights, upstream = kernel(3), normal(4, 3, 3, 2, CHANNELS)
    log_scale = np.float32([-1, -2, 0, 0.5])
    sign = np.full(weights.shape, 0.5, np.float32)
    found = [
        value_and_gradients(
            functools.partial(fake_quantize_snapped_weights, half_steps=half_steps, noise=noise),
            [weights, log_scale],
            upstream,
        )[1]
        for noise in (
            NoiseModel.of("ste"),
            NoiseModel.of("ste", "none", sign),
            NoiseModel.of("ste", "head", sign),
        )
    ]
    for one, other in zip(found[0], found[1], strict=True):
        np.testing.assert_array_equal(one, other)
    term = LN2 * table(log_scale) ** 2 * upstream.sum(axis=(0, 1, 2)) / np.sqrt(12)
    np.testing.assert_allclose(found[2][1] - found[0][1], term, rtol=1e-3, atol=1e-4)


# offset, log_scale, log_range, signed, held levels
ACTIVATIONS = {
    "signed": (-1.1, -1.5, 1.3, True, NOT_HELD),
    "unsigned": (0.0, -1.5, 1.3, False, NOT_HELD),
    "signed_held": (-1.1, -2.5, 1.3, True, 4.0),
    "unsigned_held": (0.0, -2.5, 1.3, False, 4.0),
    "held_over_its_range": (-1.1, -1.0, 0.5, True, 8.0),
}


@every_mode
@every_estimator
@pytest.mark.parametrize("case", ACTIVATIONS)
def test_the_gradient_of_activations_is_the_stated_one(case, estimator, jit):
    *parameters, signed, levels = ACTIVATIONS[case]
    parameters = [np.float32(parameter) for parameter in parameters]
    x, upstream = 2 * normal(0, 6, 5, CHANNELS), normal(1, 6, 5, CHANNELS)
    sign = np.sign(normal(2, *x.shape)) / 2
    quantize = functools.partial(
        fake_quantize_snapped_activations,
        signed=signed,
        held_levels=levels,
        noise=NoiseModel.of(estimator, sign=sign),
    )
    output, found = value_and_gradients(quantize, [x, *parameters], upstream, jit)
    x_hat, expected = activation_formula(x, parameters, signed, upstream, sign, estimator, levels)
    np.testing.assert_allclose(output, x_hat, rtol=1e-6)
    for got, want in zip(found, expected, strict=True):
        # Sums of 120 terms of float32.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def saturated(log_scale, log_range, levels):
    """Values beyond both ends of a signed grid: `(output, gradients, x, upstream)`.

    As much weighs up as down, so that moving the offset would change nothing.
    """
    x, upstream = np.float32([-50, -40, 50, 40]), np.float32([-0.3, -0.7, 0.5, 0.5])
    quantize = functools.partial(fake_quantize_snapped_activations, held_levels=levels)
    parameters = [np.float32(v) for v in (-2.0, log_scale, log_range)]
    return value_and_gradients(quantize, [x, *parameters], upstream)


def test_the_upper_end_of_a_held_grid_moves_with_the_step_alone():
    steps = 7
    for log_scale in (-2.0, -1.7, -1.0):
        _, (dx, _, dlog_scale, dlog_range) = saturated(log_scale, 4.0, levels=steps + 1.0)
        assert not dx.any()
        assert dlog_range == 0
        np.testing.assert_allclose(dlog_scale, LN2 * table(log_scale) * steps, rtol=1e-6)
    for moved in (1 / 256, 3 / 256, 1.0):
        first, (_, _, dlog_scale, _) = saturated(-2.0, 4.0, levels=steps + 1.0)
        other, _ = saturated(-2.0 + moved, 4.0, levels=steps + 1.0)
        change = (other[2:] - other[:2].mean() - first[2:] + first[:2].mean()).mean()
        ds = table(-2.0 + moved) - table(-2.0)
        # Linear in the step: exact, but for float32 and the small difference.
        np.testing.assert_allclose(change, dlog_scale / (LN2 * table(-2.0)) * ds, rtol=1e-4)


def test_step_and_range_of_a_learned_grid_together_move_the_upper_end():
    """At a whole width both logarithms may move by an entry of the table with steps kept."""
    for bits in (1, 3, 6):
        first, (_, _, dlog_scale, dlog_range) = saturated(-2.0, bits - 2.0, NOT_HELD)
        other, _ = saturated(-2.0 + 1 / 256, bits - 2.0 + 1 / 256, NOT_HELD)
        change = (other[2] - other[0]) - (first[2] - first[0])
        ds = table(-2.0 + 1 / 256) - table(-2.0)
        slope = (dlog_scale + dlog_range) / (LN2 * table(-2.0))
        np.testing.assert_allclose(slope, 2**bits - 1, rtol=1e-6)
        np.testing.assert_allclose(change, slope * ds, rtol=1e-4)


@pytest.mark.parametrize("levels", [NOT_HELD, 4.0], ids=["learned", "held"])
def test_compiled_grids_are_the_eager_ones_to_the_last_bit(levels):
    weights, log_scale = kernel(7), np.float32([-1.3, -0.2, -2.1, 3.0])
    for half_steps in (True, False):
        quantize = functools.partial(
            fake_quantize_snapped_weights, half_steps=half_steps, held_levels=levels
        )
        eager = quantize(weights, log_scale)
        np.testing.assert_array_equal(compiled(quantize)(weights, log_scale), eager)
    parameters = [np.float32(v) for v in (-1.1, -2.5, 1.3)]
    quantize = functools.partial(fake_quantize_snapped_activations, held_levels=levels)
    np.testing.assert_array_equal(
        compiled(quantize)(weights, *parameters), quantize(weights, *parameters)
    )
