"""Laws of `QuantParams`."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import QuantParams


@st.composite
def grids(draw: st.DrawFn) -> QuantParams:
    low = draw(st.integers(-128, 127))
    high = draw(st.integers(low, 127))
    scale = np.float32(2.0 ** draw(st.floats(-10, 3)))
    return QuantParams(scale, draw(st.integers(low, high)), low, high)


@given(grids())
def test_every_code_survives_the_round_trip(grid):
    codes = np.arange(grid.qmin, grid.qmax + 1)
    np.testing.assert_array_equal(grid.quantize(grid.dequantize(codes)), codes)
    assert grid.levels == codes.size


@given(grids(), st.floats(-1e6, 1e6, width=32))
def test_codes_stay_on_the_grid_and_zero_is_exact(grid, x):
    assert grid.qmin <= int(grid.quantize(x)) <= grid.qmax
    assert grid.dequantize(grid.quantize(0.0)) == 0.0


@given(grids())
def test_placing_in_int8_keeps_the_real_numbers(grid):
    placed = grid.placed_in_int8()
    assert placed.qmax == 127
    codes = np.arange(grid.qmin, grid.qmax + 1)
    moved = codes + 127 - grid.qmax
    np.testing.assert_array_equal(placed.dequantize(moved), grid.dequantize(codes))


def test_ties_go_to_the_even_step():
    grid = QuantParams(np.float32(1.0), zero_point=1)
    assert grid.quantize([0.5, 1.5, 2.5, -0.5]).tolist() == [1, 3, 3, 1]


def test_a_scale_per_channel_runs_along_its_axis():
    grid = QuantParams(np.array([1.0, 0.5], np.float32), axis=1)
    assert grid.quantize(np.ones((3, 2, 1)))[0].tolist() == [[1], [2]]
    np.testing.assert_array_equal(grid.dequantize(np.ones((1, 2)))[0], [1.0, 0.5])


def test_equality_and_hash_compare_values():
    left = QuantParams(np.array([1.0, 0.5], np.float32), axis=0)
    right = QuantParams(np.array([1.0, 0.5], np.float32), axis=0)
    assert left == right
    assert hash(left) == hash(right)
    assert left != QuantParams(np.array([1.0, 0.25], np.float32), axis=0)
    assert left != "grid"


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_must_be_positive_and_finite(scale):
    with pytest.raises(ValueError, match="positive and finite"):
        QuantParams(np.float32(scale))


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="Received: qmin=1, qmax=0"):
        QuantParams(np.float32(1), qmin=1, qmax=0)


@pytest.mark.parametrize(("scale", "axis"), [([1.0, 2.0], None), (1.0, 0), ([[1.0]], 0)])
def test_scale_and_axis_must_fit(scale, axis):
    with pytest.raises(ValueError, match="per-channel grid"):
        QuantParams(np.array(scale, np.float32), axis=axis)


def test_more_than_256_levels_do_not_fit_in_int8():
    with pytest.raises(ValueError, match="257 levels"):
        QuantParams(np.float32(1), 0, 0, 256).placed_in_int8()
