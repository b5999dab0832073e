"""What the linear ops share: bias, bounds, exact products, clamps."""

import numpy as np
import pytest

from keras_qat.integer import QuantParams, ops
from keras_qat.integer.ops.op import accumulate, activation_range, finish


def depthwise(values, bias) -> ops.DepthwiseConv2D:
    grid = QuantParams(np.full(values.shape[3], 0.5, np.float32), 0, -127, 127, 3)
    return ops.DepthwiseConv2D(("x",), "y", ops.QuantizedArray(values, grid), np.asarray(bias))


def test_the_bias_rounds_ties_to_even_on_its_own_grid():
    op = depthwise(np.ones((1, 1, 1, 4), np.int8), [0.25, 0.75, -0.25, 1.0])
    assert op.integer_bias(np.float32(1.0)).tolist() == [0, 2, 0, 2]
    assert op.bias_scale(np.float32(0.5)).tolist() == [0.25] * 4


def test_the_accumulator_bound_is_reached():
    values = np.array([[[[3, -4]], [[1, 2]]]], np.int8)
    op = depthwise(values, [0.0, 5.0])
    bound = op.accumulator_bound(QuantParams(np.float32(1.0), zero_point=-100))
    assert bound == 227 * 6 + 10


@pytest.mark.parametrize("bound", [1 << 20, 1 << 30])
def test_products_are_exact_in_both_float_widths(bound):
    generator = np.random.default_rng(0)
    left = generator.integers(-255, 256, (5, 130))
    right = generator.integers(-127, 128, (130, 4))
    if bound < 1 << 24:
        left, right = left // 16, right // 16
    np.testing.assert_array_equal(accumulate(left, right, bound), left @ right)


@pytest.mark.parametrize(
    ("activation", "scale", "zero_point", "expected"),
    [
        ("linear", 1.0, 5, (-128, 127)),
        ("relu", 1.0, 5, (5, 127)),
        ("relu", 1.0, -128, (-128, 127)),
        ("relu6", 1.0, 5, (5, 11)),
        ("relu6", 0.01, 5, (5, 127)),
        ("relu6", 6 / 255, -128, (-128, 127)),
        ("relu6", 100.0, 0, (0, 0)),
        ("relu6", 1e-39, -128, (-128, 127)),
    ],
)
def test_activation_ranges(activation, scale, zero_point, expected):
    grid = QuantParams(np.float32(scale), zero_point=zero_point)
    assert activation_range(activation, grid) == expected


def test_finish_saturates():
    grid = QuantParams(np.float32(1.0), zero_point=100)
    codes = finish(np.array([-1000, -1, 0, 27, 28, 10**9]), grid, "relu")
    assert codes.dtype == np.int8
    assert codes.tolist() == [100, 100, 100, 127, 127, 127]
