"""What GDNSQ's pure functions keep beyond the golden vectors."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_qat.estimators import (
    Estimator,
    GridStep,
    adaptive_element_wise_scaling,
    element_wise_scaling,
    register_estimator,
)
from keras_qat.quantizers.gdnsq.bit_width import (
    levels,
)
from keras_qat.quantizers.gdnsq.calibration import (
    calibrated_activation_parameters,
    calibrated_weight_log_scale,
)
from keras_qat.quantizers.gdnsq.noise_model import NoiseModel
from keras_qat.quantizers.gdnsq.noise_signs import random_noise_sign
from keras_qat.quantizers.gdnsq.published_grids import (
    fake_quantize_weights,
)
from keras_qat.quantizers.power_of_two import power_of_two
from tests.golden_vectors import compiled, value_and_gradients
from tests.quantizers.published_gdnsq import (
    activation_codes,
    fake_quantize_affine,
    meets_bits,
    true_bit_width,
    weight_bit_width,
    weight_codes,
    widest_accepted,
)

every_estimator = pytest.mark.parametrize("estimator", ["ste", "ewgs", "aewgs", "lsq"])
log_scales = st.floats(-6.0, 1.0, width=32)
seeds = st.integers(0, 2**16)
# Fixed shapes: eager mode traces nothing, and hypothesis varies the numbers.
with_many_numbers = settings(max_examples=40, deadline=None)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@with_many_numbers
@given(seed=seeds, log_scale=st.lists(log_scales, min_size=4, max_size=4))
def test_weights_reach_from_code_zero_to_as_many_levels_as_stated(seed, log_scale):
    weights, log_scale = normal(seed, 3, 3, 2, 4), np.array(log_scale, np.float32)
    codes = np.asarray(weight_codes(weights, log_scale))
    assert (codes.min(axis=(0, 1, 2)) == 0).all()
    extent = np.ptp(weights, axis=(0, 1, 2))
    stated = np.asarray(levels(extent / np.asarray(power_of_two(log_scale))))
    np.testing.assert_array_equal(codes.max(axis=(0, 1, 2)) + 1, stated)
    np.testing.assert_allclose(true_bit_width(codes, (0, 1, 2)), np.log2(stated), rtol=1e-6)
    steps = codes.astype(np.float32) * np.asarray(power_of_two(log_scale))
    grid = steps + weights.min(axis=(0, 1, 2))
    np.testing.assert_array_equal(fake_quantize_weights(weights, log_scale), grid)


@with_many_numbers
@given(seed=seeds, log_scale=log_scales, bits=st.integers(1, 8), offset=st.floats(-2, 2, width=32))
def test_whole_widths_of_activations_give_exactly_their_codes(seed, log_scale, bits, offset):
    log_scale, offset = np.float32(log_scale), np.float32(offset)
    scale = float(power_of_two(log_scale))
    x = offset + np.float32(scale) * np.linspace(-9, 2**bits + 9, 2000, dtype=np.float32)
    codes = np.asarray(activation_codes(x, offset, log_scale, log_scale + np.float32(bits)))
    assert set(np.unique(codes)) == set(range(2**bits))


@with_many_numbers
@given(width=st.floats(0.0, 8.0), bits=st.integers(1, 8))
def test_a_width_is_accepted_below_the_widest(width, bits):
    if abs(width - widest_accepted(bits)) > 1e-5:
        accepted = bool(meets_bits(np.float32(2.0**width - 1.0), bits))
        assert accepted == (width < widest_accepted(bits))


@with_many_numbers
@given(seed=seeds, bits=st.integers(1, 10))
def test_calibration_starts_at_exactly_the_bits_asked_for(seed, bits):
    weights = normal(seed, 5, 3)
    log_scale = calibrated_weight_log_scale(weights, bits, (3,))
    np.testing.assert_allclose(weight_bit_width(weights, log_scale), bits, rtol=1e-5)
    start = calibrated_activation_parameters(weights.min(), weights.max(), bits)
    codes = activation_codes(weights, start.offset, start.log_scale, start.log_range)
    assert int(ops.min(codes)) == 0
    assert int(ops.max(codes)) == 2**bits - 1


def test_calibration_of_constants():
    weights = np.stack([np.full(9, 0.7), np.linspace(0, 1e-9, 9)], axis=1).astype(np.float32)
    np.testing.assert_array_equal(calibrated_weight_log_scale(weights, 10, (2,)), [-12.0, -12.0])
    start = calibrated_activation_parameters(0.5, 0.5, 10)
    assert [float(value) for value in start] == [0.5, 0.0, 0.0, False]


@with_many_numbers
@given(seed=seeds)
def test_estimators_only_turn_a_gradient_down_or_up_never_round(seed):
    upstream, noise = normal(seed, 40), np.random.default_rng(seed).uniform(-0.5, 0.5, 40)
    noise = noise.astype(np.float32)
    step = GridStep(size=1.0, count=3, axes=(0,))
    passed = np.asarray(adaptive_element_wise_scaling(upstream, noise, step))
    assert (passed / upstream >= np.float32(0.0099)).all()
    passed = np.asarray(element_wise_scaling(upstream, noise, step))
    assert (np.abs(passed / upstream - 1) <= 0.005001).all()


@every_estimator
def test_a_scalar_step_and_raw_variables(estimator):
    """Shape () works like (1,), and variables may be passed as they are."""
    weights, upstream = normal(0, 4, 3), normal(1, 4, 3)
    quantize = functools.partial(fake_quantize_weights, noise=NoiseModel.of(estimator))
    results = [
        value_and_gradients(quantize, [weights, np.full(shape, -1.5, np.float32)], upstream)
        for shape in [(), (1,)]
    ]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(np.ravel(one), np.ravel(other))
    variable = keras.Variable(-1.5)
    np.testing.assert_array_equal(quantize(keras.Variable(weights), variable), results[0][0])


@every_estimator
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_every_parameter_may_be_per_channel(estimator, jit):
    """A channel of the last axis is quantized as it would be alone."""
    x, upstream, sign = normal(0, 50, 3), normal(1, 50, 3), np.sign(normal(2, 50, 3)) / 2
    log_scale = np.array([-1.3, 0.2, -2.1], np.float32)
    parameters = [log_scale, *(np.array(v, np.float32) for v in ([-1, -2, 0], [-1, -2, 0]))]
    parameters.append(parameters[-1] + np.array([2, 1.5, 0.7], np.float32))

    def quantize(x, *parameters, sign=sign):
        return fake_quantize_affine(x, *parameters, noise=NoiseModel.of(estimator, sign=sign))

    together = value_and_gradients(quantize, [x, *parameters], upstream, jit)[1]
    for c in range(3):
        inputs = [x[:, c : c + 1], *(p[c] for p in parameters)]
        alone = value_and_gradients(
            functools.partial(quantize, sign=sign[:, c : c + 1]), inputs, upstream[:, c : c + 1]
        )[1]
        np.testing.assert_allclose(together[0][:, c : c + 1], alone[0], rtol=1e-5, atol=1e-6)
        for one, other in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_allclose(one[c], other, rtol=1e-4, atol=1e-4)


def test_an_estimator_of_ones_own_is_one_function():
    @register_estimator("half_of_it")
    def half_of_it(upstream, noise, step):
        return 0.5 * upstream

    halved = Estimator("half_of_it")
    x, upstream = normal(0, 20), normal(1, 20)
    quantize = functools.partial(fake_quantize_weights, noise=NoiseModel.of(halved))
    _, (dw, _) = value_and_gradients(quantize, [x, np.float32(-1)], upstream)
    expected = 0.5 * upstream
    expected[np.argmin(x)] += 0.5 * upstream.sum()
    np.testing.assert_allclose(dw, expected, rtol=1e-5, atol=1e-6)


def test_signs_are_fair_and_fresh():
    seed = keras.random.SeedGenerator(1)
    first, second = (np.asarray(random_noise_sign((50, 40), seed)) for _ in range(2))
    assert set(np.unique(first)) == {-0.5, 0.5}
    assert (first != second).mean() == pytest.approx(0.5, abs=0.06)  # 5 standard deviations
    assert abs(first.mean()) < 0.06
    drawn = np.asarray(compiled(lambda: random_noise_sign((50, 40), seed=3))())
    np.testing.assert_array_equal(drawn, random_noise_sign((50, 40), seed=3))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"'aewgs', .*'ste'.*Received: 'eww'"):
        NoiseModel.of("eww")
    with pytest.raises(ValueError, match=r"one of \('head', 'none'\). Received: 'lsq'"):
        NoiseModel.of("ste", noise_gradient="lsq")
    with pytest.raises(ValueError, match=r"more axes .* Received: shape \(2, 1\) .* \(2,\)"):
        fake_quantize_weights([1.0, 2.0], np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match=r"at least 1. Received: 0"):
        calibrated_weight_log_scale([1.0], 0, ())
