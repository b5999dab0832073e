"""Convolutions and matrix products against plain loops over exact integers."""

import numpy as np
import pytest

from keras_qat.integer import QuantParams, ops
from keras_qat.integer.fixed_point import Rescale, get_profile, rescale_double_rounding
from keras_qat.integer.ops.op import finish

X_GRID = QuantParams(np.float32(0.05), zero_point=-7)
Y_GRID = QuantParams(np.float32(0.3), zero_point=4)
generator = np.random.default_rng(0)


def random_weight(shape, axis) -> ops.QuantizedArray:
    scale = generator.uniform(0.01, 0.1, shape[axis]).astype(np.float32)
    values = generator.integers(-127, 128, shape).astype(np.int8)
    return ops.QuantizedArray(values, QuantParams(scale, 0, -127, 127, axis))


def check(op: ops.LinearOp, shape, expected_accumulator) -> None:
    x = generator.integers(-128, 128, shape).astype(np.int8)
    total = expected_accumulator(x.astype(np.int64) - X_GRID.zero_point)
    total = total + op.integer_bias(X_GRID.scale)
    rescale = Rescale(X_GRID.scale, op.weight.qparams.scale, Y_GRID.scale)
    expected = finish(rescale_double_rounding(total, rescale), Y_GRID, op.activation)
    actual = op.evaluate([ops.QuantizedArray(x, X_GRID)], Y_GRID, get_profile("tflm"))
    np.testing.assert_array_equal(actual, expected)


def test_fully_connected():
    op = ops.FullyConnected(("x",), "y", random_weight((3, 9), 0), generator.normal(size=3))
    check(op, (4, 9), lambda x: x @ op.weight.values.T.astype(np.int64))


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_conv2d(activation):
    weight = random_weight((3, 2, 3, 4), 0)
    op = ops.Conv2D(("x",), "y", weight, generator.normal(size=3), activation)

    def loops(x):
        total = np.zeros((2, 4, 3, 3), np.int64)
        for row, column in np.ndindex(4, 3):
            patch = x[:, row : row + 2, column : column + 3]
            for filter_ in range(3):
                total[:, row, column, filter_] = (patch * weight.values[filter_]).sum((1, 2, 3))
        return total

    check(op, (2, 5, 5, 4), loops)


def test_conv2d_in_groups():
    op = ops.Conv2D(("x",), "y", random_weight((4, 1, 2, 3), 0), generator.normal(size=4))

    def loops(x):
        total = np.zeros((1, 2, 3, 4), np.int64)
        for column, filter_ in np.ndindex(3, 4):
            first = 3 * (filter_ // 2)
            patch = x[:, :, column : column + 2, first : first + 3]
            total[:, :, column, filter_] = (patch * op.weight.values[filter_, 0]).sum((2, 3))
        return total

    check(op, (1, 2, 4, 6), loops)


def test_filters_that_do_not_group_the_channels_are_refused():
    op = ops.Conv2D(("x",), "y", random_weight((4, 1, 1, 4), 0), np.zeros(4))
    with pytest.raises(ValueError, match=r"4 filters over 4 channels.*input of 6 channels"):
        op.output_shape([(1, 2, 2, 6)])


@pytest.mark.parametrize(
    ("padding", "output_size", "before"),
    [("valid", (5, 5), (0, 0)), ("same", (4, 4), (0, 0)), ("same", (3, 4), (1, 0))],
)
def test_transpose_conv2d_adds_every_pixel_where_it_reaches(padding, output_size, before):
    weight = random_weight((3, 3, 2, 4), 0)
    op = ops.TransposeConv2D(
        ("x",),
        "y",
        weight,
        generator.normal(size=3),
        strides=(2, 2),
        padding=padding,
        output_size=output_size,
    )

    def loops(x):
        total = np.zeros((1, *output_size, 3), np.int64)
        for row, column, i, j in np.ndindex(2, 2, 3, 2):
            r, c = 2 * row + i - before[0], 2 * column + j - before[1]
            if 0 <= r < output_size[0] and 0 <= c < output_size[1]:
                total[:, r, c] += x[:, row, column] @ weight.values[:, i, j].T.astype(np.int64)
        return total

    check(op, (1, 2, 2, 4), loops)


def test_depthwise_conv2d_orders_channels_by_input_first():
    weight = random_weight((1, 2, 2, 6), 3)
    op = ops.DepthwiseConv2D(("x",), "y", weight, generator.normal(size=6))

    def loops(x):
        total = np.zeros((1, 3, 3, 6), np.int64)
        for row, column in np.ndindex(3, 3):
            patch = x[0, row : row + 2, column : column + 2]
            for channel in range(6):
                taps = weight.values[0, :, :, channel].astype(np.int64)
                total[0, row, column, channel] = (patch[:, :, channel // 2] * taps).sum()
        return total

    check(op, (1, 4, 4, 3), loops)
