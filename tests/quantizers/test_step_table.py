"""The table of steps: the same numbers in NumPy, eager and compiled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qat.quantizers.gdnsq.step_table import (
    STEPS_PER_OCTAVE,
    learned_step,
    snapped_log,
    table_index,
    table_value,
)
from tests.golden_vectors import compiled, value_and_gradients

COUNT = 64  # one shape, so that the compiler runs once
LARGEST = 60 * STEPS_PER_OCTAVE
logs = st.lists(st.floats(-70, 70, width=32), min_size=COUNT, max_size=COUNT)
compiled_step = compiled(learned_step)


def numpy_step(log_scale):
    """`2**(n / 256)`, rounded once for the fraction: the definition, in NumPy."""
    index = np.clip(np.rint(np.float32(log_scale) * np.float32(256)), -LARGEST, LARGEST)
    octave, fraction = np.divmod(index.astype(int), STEPS_PER_OCTAVE)
    return np.ldexp(np.float32(2.0 ** (fraction / 256.0)), octave)


@settings(max_examples=50, deadline=None)
@given(logs)
def test_a_step_is_the_same_bit_for_bit_in_numpy_eager_and_compiled(values):
    values = np.array(values, np.float32)
    expected = numpy_step(values)
    np.testing.assert_array_equal(learned_step(values), expected)
    np.testing.assert_array_equal(compiled_step(values), expected)


def test_every_entry_of_two_octaves_is_the_power_it_stands_for():
    index = np.arange(-STEPS_PER_OCTAVE, STEPS_PER_OCTAVE)
    steps = np.asarray(table_value(index))
    # One rounding to float32.
    np.testing.assert_allclose(steps, 2.0 ** (index / 256), rtol=2.0**-24)
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(np.asarray(table_value(index + 2560)), steps * 1024)


def test_logarithms_in_the_table_find_their_own_entry():
    index = np.arange(-LARGEST, LARGEST + 1)
    np.testing.assert_array_equal(table_index(np.float32(index / 256)), index)


def test_beyond_sixty_octaves_the_step_stays_finite_and_positive():
    steps = np.asarray(learned_step(np.float32([-1e9, -61, 61, 1e9])))
    np.testing.assert_array_equal(steps, [2.0**-60, 2.0**-60, 2.0**60, 2.0**60])


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_the_snapped_logarithm_is_that_of_its_step_and_passes_its_gradient(jit):
    values = np.linspace(-9, 9, COUNT, dtype=np.float32)
    upstream = np.linspace(-1, 2, COUNT, dtype=np.float32)
    snapped, (gradient,) = value_and_gradients(snapped_log, [values], upstream, jit)
    np.testing.assert_array_equal(learned_step(snapped), learned_step(values))
    np.testing.assert_array_equal(snapped * 256, np.rint(values * 256))
    np.testing.assert_array_equal(gradient, upstream)
