"""The affine grid, and the rounding of averages against integer arithmetic."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from keras_qat.quantizers import Grid
from keras_qat.quantizers.grid import (
    round_interpolated_to_codes,
    round_pooled_to_codes,
    round_to_codes,
    stated_grid,
)
from keras_qat.quantizers.ste import STEActivationQuantizer


@pytest.mark.parametrize("bits", range(1, 9))
def test_grids_have_the_codes_of_their_bits(bits):
    unsigned, signed = (Grid.for_activations(bits, signed) for signed in (False, True))
    assert (unsigned.qmin, unsigned.qmax) == (0, 2**bits - 1)
    assert (signed.qmin, signed.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    weights = Grid.for_weights(bits)
    expected = {1: Grid(-1, 1, step=2), 8: Grid(-127, 127)}.get(bits, signed)
    assert weights == expected
    assert [grid.bits for grid in (unsigned, signed, weights)] == [bits] * 3


@pytest.mark.parametrize("make", [Grid.for_weights, lambda b: Grid.for_activations(b, True)])
@pytest.mark.parametrize("bits", [0, 9, 2.0, True, None])
def test_other_widths_are_refused(make, bits):
    with pytest.raises(ValueError, match=r"must be a whole number from 1 to 8\. .*Received: "):
        make(bits)


def test_activations_of_16_bits_are_named_as_left_out():
    with pytest.raises(ValueError, match=r"16 bits \(16x8 in TFLite\) are not supported"):
        Grid.for_activations(16, signed=True)


def test_ties_go_to_the_even_code_and_the_ends_saturate():
    ratio = np.array([-99.0, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 99.0], np.float32)
    codes = round_to_codes(ratio, Grid(-4, 3))
    np.testing.assert_array_equal(codes, [-4, -2, -2, 0, 0, 2, 2, 3])


@pytest.mark.parametrize(("ratio", "code"), [(-9.0, -1), (-0.01, -1), (0.01, 1), (9.0, 1)])
def test_one_bit_is_the_sign(ratio, code):
    assert float(round_to_codes(np.float32(ratio), Grid.for_weights(1))) == code


def test_one_bit_of_zero_is_minus_one():
    assert float(round_to_codes(np.float32(0.0), Grid.for_weights(1))) == -1


def placed_average(totals, count, grid):
    """Half away from zero, of the placed integers, by integer arithmetic alone."""
    offset = grid.qparams(np.float32(1.0)).placed_in_int8().zero_point
    stored = totals + count * offset
    magnitude = (2 * np.abs(stored) + count) // (2 * count)
    return np.sign(stored) * magnitude - offset


@pytest.mark.parametrize("count", [*range(1, 17), 25, 36, 49, 64, 121, 255, 256])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_average_is_rounded_as_the_integers_are(bits, signed, count):
    """Every sum that `count` codes can have: 4 is 2x2, 9 is 3x3, the rest are borders and more."""
    grid = Grid.for_activations(bits, signed)
    totals = np.arange(count * grid.qmin, count * grid.qmax + 1)
    ratio = totals.astype(np.float32) / np.float32(count)
    np.testing.assert_array_equal(
        round_pooled_to_codes(ratio, grid), placed_average(totals, count, grid)
    )


@pytest.mark.parametrize("scale", [0.0123, 1.0 / 3.0, 7.7e-5])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 2])
def test_every_2x2_window_through_keras_and_through_the_integer_op(bits, signed, scale):
    """All windows of codes there are: a mean of floats on the grid may be a hair beside a tie."""
    grid = Grid.for_activations(bits, signed)
    codes = range(grid.qmin, grid.qmax + 1)
    windows = np.array(list(itertools.product(codes, repeat=4)), np.float32).reshape(-1, 2, 2, 1)
    assert_pools_equal(windows, grid, np.float32(scale), (2, 2), (2, 2), "valid")


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [((2, 2), (2, 2), "same"), ((3, 3), (2, 2), "same"), ((3, 3), (1, 1), "same"),
     ((3, 3), (3, 3), "valid"), ((2, 3), (1, 2), "same")],
)  # fmt: skip
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_pooling_through_keras_and_through_the_integer_op(bits, signed, size, strides, padding):
    grid = Grid.for_activations(bits, signed)
    rng = np.random.default_rng(bits)
    codes = rng.integers(grid.qmin, grid.qmax, (16, 7, 7, 3), endpoint=True).astype(np.float32)
    assert_pools_equal(codes, grid, np.float32(0.0371), size, strides, padding)


def assert_pools_equal(codes, grid, scale, size, strides, padding):
    pooled = keras.ops.average_pool(codes * scale, size, strides, padding)
    actual = round_pooled_to_codes(pooled / scale, grid)

    placed: QuantParams = grid.qparams(scale).placed_in_int8()
    stored = (codes + placed.zero_point).astype(np.int8)
    builder = GraphBuilder()
    x = builder.add_input("x", (1, *codes.shape[1:]), placed)
    y = builder.add(ops.AveragePool2D((x,), "y", size, strides, padding), placed)
    expected = run(builder.build((y,)), stored)["y"].astype(int) - placed.zero_point
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("size", [(2, 2), (1, 2), (4, 4), (8, 4), (16, 16)])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_interpolation_through_keras_and_through_the_integer_op(bits, signed, size):
    """Not a single tie of XNNPACK's falls to another side, where every code meets every other."""
    grid = Grid.for_activations(bits, signed)
    scale = np.float32(0.0371)
    rng = np.random.default_rng(bits)
    codes = rng.integers(grid.qmin, grid.qmax, (8, 5, 5, 3), endpoint=True).astype(np.float32)
    layer = keras.layers.UpSampling2D(size, interpolation="bilinear")
    actual = round_interpolated_to_codes(layer(codes * scale) / scale, grid)

    placed: QuantParams = grid.qparams(scale).placed_in_int8()
    stored = (codes + placed.zero_point).astype(np.int8)
    builder = GraphBuilder()
    x = builder.add_input("x", (1, *codes.shape[1:]), placed)
    y = builder.add(ops.InterpolatePixels((x,), "y", size), placed)
    expected = run(builder.build((y,)), stored, "xnnpack")["y"].astype(int) - placed.zero_point
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "stated",
    [
        None,
        [[]],
        {},
        {"qmin": -8},
        {"qmin": -8, "qmax": 7, "more": 1},
        {"qmin": -8.5, "qmax": 7},
        {"qmin": True, "qmax": 7},
        {"qmin": "-8", "qmax": 7},
        {"qmin": 0, "qmax": 2**70},
        {"qmin": -(2**31), "qmax": 7},
        {"qmin": 7, "qmax": -8},
        {"qmin": 0, "qmax": 0},
        {"qmin": 1, "qmax": 7},
        {"qmin": -8, "qmax": 7, "step": 0},
        {"qmin": -8, "qmax": 7, "step": 0.5},
    ],
)
def test_a_grid_that_is_none_is_refused(stated):
    with pytest.raises(ValueError, match="A grid has whole codes qmin < qmax from -255 to 255"):
        STEActivationQuantizer(stated)


@pytest.mark.parametrize("grid", [Grid(-1, 1, step=2), Grid(-1, 0), Grid(-85, 170), Grid(0, 1)])
def test_a_grid_comes_back_from_its_fields(grid):
    assert stated_grid(dataclasses.asdict(grid)) == stated_grid(grid) == grid
