"""The fixed-point formulas in a Keras graph are those of the interpreter, element by element."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_qat.arithmetic import ARITHMETICS
from keras_qat.integer import PROFILES, QuantParams, fixed_point
from keras_qat.integer.fixed_point import get_profile
from keras_qat.integer.op_numbers import NUMPY, fixed_point_multiplier
from keras_qat.integer.ops import Add, Mean, QuantizedArray, Softmax, Sub
from keras_qat.keras_fixed_point import Rescaling, rounded_twice
from keras_qat.quantized_layers.add import SumGrids
from keras_qat.quantized_layers.mean import MeanOfCodes, QuantizeGlobalAveragePooling2D
from keras_qat.quantizers import LSQActivationQuantizer
from keras_qat.quantizers.fixed_point_softmax import softmax_steps
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.softmax_rounding import CodesOfScores
from keras_qat.wide_numbers import in_wide_numbers

TFLM = PROFILES["tflm"]
RANDOM = np.random.default_rng(0)
MULTIPLIERS = np.concatenate(
    [
        2.0 ** RANDOM.uniform(-31, 8, 10_000),
        2.0 ** np.arange(-31, 8),
        np.nextafter(2.0 ** np.arange(-31, 8), 0),  # the mantissa carries
        (2.0 ** np.arange(-31, 7)) * 1.5,
    ]
)
LEVELS = np.arange(-256, 257)


def around_every_threshold(multipliers):
    """Accumulators next to those at which the result changes, for every multiplier: (n, many)."""
    mantissa, shift = fixed_point.quantize_multiplier(multipliers[:, None])
    ends = np.clip(np.rint((LEVELS - 0.5) / multipliers[:, None]), -(2.0**30), 2.0**30)
    low, high = ends.astype(np.int64) - 3, ends.astype(np.int64) + 3
    for _ in range(3):  # the first accumulator that reaches the level, by halving
        middle = (low + high) // 2
        reached = fixed_point.multiply_double_rounding(middle, mantissa, shift) >= LEVELS
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    near = (high[..., None] + np.arange(-2, 3)).reshape(len(multipliers), -1)
    room = 2**30 >> np.maximum(shift, 0)  # farther out the kernel itself wraps
    return np.clip(near, -room, room)


def test_multipliers_are_split_as_frexp_splits_them():
    fraction, exponent = np.frexp(MULTIPLIERS)
    rounded = np.floor(fraction * 2**31 + 0.5)
    exponent = exponent + (rounded == 2**31)
    rounded[rounded == 2**31] /= 2
    mantissa, shift = fixed_point_multiplier(NUMPY, MULTIPLIERS)
    np.testing.assert_array_equal(mantissa, np.where(exponent < -31, 0, rounded))
    np.testing.assert_array_equal(shift, np.where(exponent < -31, 0, exponent))


@pytest.mark.parametrize("positive", [False, True])
def test_two_roundings_at_every_threshold(positive):
    """Both are monotone in the accumulator, so equality there is equality everywhere."""
    x = around_every_threshold(MULTIPLIERS)
    mantissa, shift = fixed_point.quantize_multiplier(MULTIPLIERS)
    expected = fixed_point.multiply_double_rounding(x, mantissa[:, None], shift[:, None])
    found = ops.convert_to_numpy(
        rounded_twice(ops.convert_to_tensor(x.T), mantissa, shift, positive)
    ).T
    if positive:
        expected, found = np.maximum(expected, 0), np.maximum(found, 0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_float64_takes_the_same_steps_where_it_claims_to(positive, jit):
    """Sums with headroom and a bias, in float64 or int64 as each channel allows."""
    multipliers = MULTIPLIERS[(MULTIPLIERS > 2.0**-24) & (MULTIPLIERS < 1)]
    accumulators = around_every_threshold(multipliers)
    headroom = RANDOM.integers(0, 7, len(multipliers))
    sums = accumulators >> headroom[:, None]
    bias = RANDOM.integers(-5000, 5000, len(multipliers))
    mantissa, shift = fixed_point.quantize_multiplier(multipliers)
    expected = fixed_point.multiply_double_rounding(
        (sums << headroom[:, None]) + bias[:, None], mantissa[:, None], shift[:, None]
    )
    largest = np.abs(sums << headroom[:, None]).max(axis=1) + np.abs(bias)
    rescaling = Rescaling(
        *map(ops.convert_to_tensor, (headroom, bias.astype(float), mantissa, shift)),
        ops.convert_to_tensor(largest.astype(float)),
        ops.convert_to_tensor(256.0, "float64"),
        positive,
    )
    claimed = ops.convert_to_numpy(rescaling.is_exact())
    assert 0.2 < claimed.mean() < 1.0  # both ways are taken
    in_float64 = tf.function(rescaling.in_float64, jit_compile=jit)
    found = ops.convert_to_numpy(in_float64(ops.convert_to_tensor(sums.T.astype(float)))).T
    low = 0 if positive else -256
    expected, found = (np.clip(each, low, 256)[claimed] for each in (expected, found))
    np.testing.assert_array_equal(found, expected)


def quantizer(scale, bits=8, signed=True):
    made = LSQActivationQuantizer(Grid.for_activations(bits, signed))
    made.build((None, 1))
    made.set_scale(scale)
    return made


def grid_of(made):
    return made.qparams().placed_in_int8()


@pytest.mark.parametrize(("op", "sign"), [(Add, 1), (Sub, -1)])
def test_every_sum_of_two_codes(op, sign):
    for _ in range(20):
        left, right, output = (quantizer(np.float32(2.0 ** RANDOM.uniform(-6, 2))) for _ in "abc")
        codes = np.arange(-128, 128)
        rows = QuantizedArray(codes[:, None].astype(np.int8), grid_of(left))
        columns = QuantizedArray(codes[None].astype(np.int8), grid_of(right))
        expected = op(("a", "b"), "y").evaluate([rows, columns], grid_of(output), TFLM)
        a, b = (ops.cast(codes, "float32") * each.scale for each in (left, right))
        found = SumGrids(left, right, output).fixed_point_sum(a[:, None], b[None], sign)
        found = np.clip(np.rint(found / output.scale), -128, 127)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [1, 7, 49, 64, 600, 32 * 32])
def test_every_mean(count):
    for _ in range(5):
        before, output = (quantizer(np.float32(2.0 ** RANDOM.uniform(-4, 1))) for _ in "ab")
        totals = np.unique(np.concatenate([RANDOM.integers(-128 * count, 127 * count, 1000), [0]]))
        base, rest = np.divmod(totals, count)
        codes = base[:, None] + (np.arange(count) < rest[:, None])
        image = QuantizedArray(codes[:, None, :, None].astype(np.int8), grid_of(before))
        expected = Mean(("x",), "y").evaluate([image], grid_of(output), TFLM)[:, 0]
        mean = ops.mean(ops.cast(codes, "float32") * before.scale, axis=1)
        rounding = MeanOfCodes(before, output, count).rounding(ARITHMETICS["tflm"])
        np.testing.assert_array_equal(rounding(mean / output.scale, output.grid), expected)


@pytest.mark.parametrize("count", [1, 49, 32 * 32 + 1, 112 * 112, 300 * 300])
@pytest.mark.parametrize("target", ["tflm", "xnnpack-arm64"])
def test_a_mean_of_codes_has_no_largest_image(count, target):
    """Sums beyond 2**24, which float32 does not hold, included."""
    for low in (-128, 100):
        before, output = (quantizer(np.float32(2.0 ** RANDOM.uniform(-4, 1))) for _ in "ab")
        codes = RANDOM.integers(low, 128, (20, count, 1, 2)).astype(np.int8)
        codes[0] = low if low > 0 else 127
        image = QuantizedArray(codes, grid_of(before))
        profile = get_profile(target)
        expected = Mean(("x",), "y").evaluate([image], grid_of(output), profile)
        told = MeanOfCodes(before, output, count, QuantizeGlobalAveragePooling2D())
        values = ops.cast(codes, "float32") * before.scale
        found = told.mean(values, (1, 2), ARITHMETICS[target])[:, 0, 0] / output.scale
        np.testing.assert_array_equal(np.rint(found), expected.reshape(20, 2))


@pytest.mark.parametrize("scale", [1e-5, 1e-4, 0.004, 0.1, 0.37, 1.0, 9.0, 200.0, 28018.0])
def test_softmax_of_random_scores(scale):
    codes = RANDOM.integers(-128, 128, (2000, 10)).astype(np.int8)
    grid = QuantParams(np.float32(scale))
    expected = Softmax(("x",), "y").evaluate([QuantizedArray(codes, grid)], grid, TFLM)
    below = codes.max(axis=-1, keepdims=True).astype(np.int64) - codes
    steps = in_wide_numbers(softmax_steps)(
        ops.convert_to_tensor(below), ops.cast(grid.scale, "float64")
    )
    np.testing.assert_array_equal(np.clip(ops.convert_to_numpy(steps) - 128, -128, 127), expected)
    real = keras.ops.softmax(ops.cast(codes, "float32") * grid.scale)
    found = CodesOfScores(quantizer(np.float32(scale))).of_kernel(real)
    np.testing.assert_array_equal(np.rint(found * 256) - 128, expected)
