"""Every rounding against its definition in exact rational arithmetic."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import PROFILES
from keras_qat.integer.fixed_point import (
    Rescale,
    get_profile,
    multiply_double_rounding,
    multiply_single_rounding,
    quantize_multiplier,
    rescale_float32,
    rounding_divide_by_power_of_two,
    saturating_rounding_doubling_high_mul,
)

int32 = st.integers(-(2**31), 2**31 - 1)
mantissas = st.integers(2**30, 2**31 - 1)
multipliers = st.floats(2.0**-12, 4.0)


def array(x: int) -> np.ndarray:
    return np.asarray(x, dtype=np.int64)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def half_away(x: Fraction) -> int:
    return half_up(x) if x >= 0 else -half_up(-x)


@given(multipliers)
def test_a_multiplier_keeps_31_bits(real):
    mantissa, shift = map(int, quantize_multiplier(real))
    assert 2**30 <= mantissa < 2**31
    exact = Fraction(real)
    error = abs(Fraction(mantissa) * Fraction(2) ** (shift - 31) - exact)
    assert error <= Fraction(2) ** (shift - 32)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (1.0, (2**30, 1)),
        (0.5, (2**30, 0)),
        (1.0 - 2.0**-40, (2**30, 1)),
        (2.0**-31, (2**30, -30)),
        (2.0**-40, (0, 0)),
    ],
)
def test_corners_of_multipliers(real, expected):
    assert tuple(map(int, quantize_multiplier(real))) == expected


@given(int32, int32)
def test_high_multiply_rounds_ties_up_and_saturates(a, b):
    expected = min(half_up(Fraction(a * b, 2**31)), 2**31 - 1)
    assert int(saturating_rounding_doubling_high_mul(array(a), array(b))) == expected


@given(int32, st.integers(0, 31))
def test_divide_rounds_ties_away(x, exponent):
    expected = half_away(Fraction(x, 2**exponent))
    assert int(rounding_divide_by_power_of_two(array(x), exponent)) == expected


@given(st.integers(-(2**24), 2**24), mantissas, st.integers(-12, 3))
def test_double_rounding_is_a_high_multiply_and_a_division(x, mantissa, shift):
    high = half_up(Fraction(x * 2 ** max(shift, 0) * mantissa, 2**31))
    expected = half_away(Fraction(high, 2 ** max(-shift, 0)))
    actual = multiply_double_rounding(array(x), array(mantissa), array(shift))
    assert int(actual) == expected


@given(st.integers(-(2**31), 2**31 - 1), mantissas, st.integers(-12, 3))
def test_single_rounding_rounds_the_exact_product(x, mantissa, shift):
    expected = half_away(Fraction(x * mantissa) * Fraction(2) ** (shift - 31))
    actual = multiply_single_rounding(array(x), array(mantissa), array(shift))
    assert int(actual) == expected


def test_single_rounding_keeps_ties_symmetric():
    halves = np.array([-3, -1, 1, 3])
    steps = multiply_single_rounding(halves, array(2**30), array(0))
    assert steps.tolist() == [-2, -1, 1, 2]


def test_a_left_shift_wraps_like_32_bits():
    result = multiply_double_rounding(array(2**30), array(2**30), array(2))
    assert int(result) == 0


def test_float32_rescale_rounds_ties_to_even():
    half = Rescale(*(np.float32([value]) for value in (1.0, 0.5, 1.0)))
    steps = rescale_float32(np.arange(-3, 6, 2), half)
    assert steps.tolist() == [-2, 0, 0, 2, 2]


def test_float32_multiplier_rounds_after_every_operation():
    rescale = Rescale(np.float32(0.1), np.array([0.3], np.float32), np.float32(0.7))
    expected = np.float32(np.float32(0.1) * np.float32(0.3)) / np.float32(0.7)
    assert rescale.float32_multiplier().dtype == np.float32
    assert rescale.float32_multiplier()[0] == expected


def test_profiles_are_found_by_name_or_passed_through():
    assert set(PROFILES) == {"tflm", "litert_ref", "xnnpack-x86", "xnnpack-arm64", "xnnpack"}
    assert get_profile("tflm") is PROFILES["tflm"]
    assert get_profile(PROFILES["xnnpack"]) is PROFILES["xnnpack"]
    with pytest.raises(ValueError, match="Received: 'cmsis'"):
        get_profile("cmsis")
