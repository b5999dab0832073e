"""The bound of an accumulator holds for every input, and is reached by one."""

import itertools

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.integer.accumulators import INT32_MAX, accumulator_range, leaves_int32
from keras_qat.integer.fixed_point import multiply_double_rounding, quantize_multiplier

rng = np.random.default_rng(0)


def graph_of(x_grid, shape, op):
    builder = GraphBuilder()
    builder.add_input("x", shape, x_grid)
    builder.add(op, QuantParams(np.float32(1)))
    return builder.build(("y",))


def weight(shape, axis, low=-127, high=127):
    values = rng.integers(low, high + 1, shape).astype(np.int8)
    scale = np.full(shape[axis], 0.5, np.float32)
    return ops.QuantizedArray(values, QuantParams(scale, 0, -127, 127, axis))


GRIDS = [
    QuantParams(np.float32(0.25), 0, -2, 1),
    QuantParams(np.float32(0.25), -128, -128, -126),
    QuantParams(np.float32(0.25), 127, 125, 127),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_bound_of_a_dense_layer_is_its_extreme_over_all_inputs(grid):
    op = ops.FullyConnected(("x",), "y", weight((4, 5), 0), rng.normal(0, 9, 4))
    graph = graph_of(grid, (1, 5), op)
    codes = np.arange(grid.qmin, grid.qmax + 1) - grid.zero_point
    every = np.array(list(itertools.product(codes, repeat=5)), np.int64)
    sums = every @ op.weight.values.astype(np.int64).T + op.integer_bias(grid.scale)
    low, high = accumulator_range(op, graph)
    np.testing.assert_array_equal(low, sums.min(axis=0))
    np.testing.assert_array_equal(high, sums.max(axis=0))


WINDOWS = {
    "conv": lambda: (ops.Conv2D, (3, 2, 2, 2), 0),
    "depthwise": lambda: (ops.DepthwiseConv2D, (1, 2, 2, 2), 3),
}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("grid", GRIDS)
def test_no_input_leaves_the_bound_of_a_window(kind, grid, padding):
    op_type, shape, axis = WINDOWS[kind]()
    bias = rng.normal(0, 9, shape[axis])
    op = op_type(("x",), "y", weight(shape, axis), bias, padding=padding)
    graph = graph_of(grid, (1, 4, 4, 2), op)
    low, high = accumulator_range(op, graph)
    values = rng.integers(grid.qmin, grid.qmax + 1, (200, 4, 4, 2))
    patches = op.window.patches(values - grid.zero_point)  # (n, rows, columns, h, w, channels)
    kernel = op.weight.values.astype(np.int64)
    equation = "nrcijk,oijk->nrco" if kind == "conv" else "nrcijk,oijk->nrck"
    sums = np.einsum(equation, patches, kernel) + op.integer_bias(grid.scale)
    assert (sums >= low).all()
    assert (sums <= high).all()


@pytest.mark.parametrize("multiplier", [0.3, 0.5, 0.999, 1.0, 1.5, 2.0, 31.0, 32.0, 255.0])
def test_a_bound_below_int32_never_wraps_and_one_above_may(multiplier):
    mantissa, shift = quantize_multiplier(multiplier)
    largest = np.int64(INT32_MAX >> max(int(shift), 0))
    assert not leaves_int32(largest, multiplier)
    assert bool(leaves_int32(largest + 1, multiplier))
    for accumulator in (largest, -largest):
        exact = int(accumulator) * int(mantissa) / 2 ** (31 - int(shift))
        found = multiply_double_rounding(accumulator, mantissa, shift)
        assert abs(int(found) - exact) <= 1
    if shift > 0:
        wrapped = multiply_double_rounding(largest + 1, mantissa, shift)
        assert int(wrapped) < 0
