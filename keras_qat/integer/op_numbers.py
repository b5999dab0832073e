"""The numbers of an op with weights, channel by channel, from what was learned.

One text for two readers: the exporter computes with NumPy, and a Keras model that infers as a
target does computes with `keras.ops` inside its traced graph. Every function takes the library as
its argument `xp`. Each step is one operation of float64 that every processor rounds alike, and no
product of float32 numbers is rounded in float64, so both readers get the same numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Library = Any
"""NumPy's functions (`NUMPY`), or the same functions of `keras.ops`."""
Array = Any

WEIGHT_MAX = 127
INT32_MAX = (1 << 31) - 1
_ANY_CODES = 255
"""Reach of an int8 input, whatever its grid. A few bits more would help only beyond 60,000 taps."""
_LARGEST_BIAS = 1 << 30
_WORTHLESS = 2.0**-12
_BEYOND_INT8 = 256.0
_CONSTANT_CHANNEL_MULTIPLIER = 2.0**-10
_SMALLEST_SCALE = 1e-30
_EXPONENTS = 64
_POWERS = np.ldexp(1.0, np.arange(-_EXPONENTS, _EXPONENTS + 1))


class _Numpy:
    """NumPy under the names of `keras.ops`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def cast(x: Any, dtype: str) -> Any:
        return np.asarray(x).astype(dtype)


NUMPY: Library = _Numpy()


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedChannels:
    """What one op learned, with the affine maps behind it folded in, for every output channel.

    Attributes:
        total: sum of the magnitudes of the codes.
        largest: largest magnitude of a code.
        scale: float64, the real value of one code.
        bias: float64, the real bias.
        one_scale: whether all channels share one scale, now and in a file.
    """

    total: Array
    largest: Array
    scale: Array
    bias: Array
    one_scale: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class StoredChannels:
    """What a file holds of one op, for every output channel.

    Attributes:
        headroom: the learned codes are stored shifted left by this.
        bias: the int32 bias, float64.
        multiplier: `s_x * s_w / s_y` of the stored codes, float64.
    """

    headroom: Array
    bias: Array
    multiplier: Array


def within_int32(
    xp: Library, learned: LearnedChannels, input_scale: Array, output_scale: Array, reach: Array
) -> tuple[LearnedChannels, Array, Array]:
    """The channels with every bias at most `2**30` units, which codes count, and which cannot be.

    Pruned or collapsed channels (a BatchNormalization gain near zero) would need larger biases. If
    all weights of such a channel together are worth less than `2**-12` of an output step, its codes
    become 0, and the channel gets a unit that fits its bias. If a bias of `2**30` units saturates
    the output for every input, that is the bias. Channels that share one scale get no unit of their
    own.

    Args:
        xp: the library.
        learned: the channels.
        input_scale, output_scale: scales of the tensors around the op, float64.
        reach: largest magnitude of an input code.

    Returns:
        The channels, a mask of the channels that keep their codes, and a mask of the channels for
        which neither holds.
    """
    worth = learned.total * reach * input_scale * learned.scale / output_scale
    unit = xp.maximum(input_scale * learned.scale, float(np.finfo(np.float32).tiny))
    beyond = xp.abs(learned.bias) / unit > _LARGEST_BIAS
    beyond = xp.logical_or(beyond, learned.scale < _SMALLEST_SCALE)
    constant = xp.logical_or(learned.total == 0, xp.logical_and(beyond, worth < _WORTHLESS))
    if learned.one_scale:
        constant = xp.zeros_like(constant)
    varies = xp.logical_and(beyond, xp.logical_not(constant))
    least = (_LARGEST_BIAS - learned.total * reach) * unit / output_scale
    saturated = xp.logical_and(varies, least >= _BEYOND_INT8)
    refused = xp.logical_and(varies, xp.logical_not(saturated))
    fine_scale = output_scale / input_scale * _CONSTANT_CHANNEL_MULTIPLIER
    scale = xp.where(constant, fine_scale, learned.scale)
    limited = xp.logical_or(constant, saturated)
    limit = xp.where(limited, _LARGEST_BIAS * scale * input_scale, float("inf"))
    bias = xp.minimum(xp.maximum(learned.bias, -limit), limit)
    counts = xp.logical_not(constant)
    weights = xp.cast(counts, "float64")
    total, largest = learned.total * weights, learned.largest * weights
    fitted = dataclasses.replace(learned, total=total, largest=largest, scale=scale, bias=bias)
    return fitted, counts, refused


def stored_channels(
    xp: Library,
    learned: LearnedChannels,
    input_scale: Array,
    output_scale: Array,
    weight_max: int = WEIGHT_MAX,
) -> StoredChannels:
    """The channels as a file holds them: with float32 scales and headroom.

    Args:
        xp: the library.
        learned: the channels, their scale a float32 number.
        input_scale, output_scale: scales of the tensors around the op, float64.
        weight_max: largest magnitude of a stored weight.
    """
    unit = bias_unit(xp, input_scale, learned.scale)
    multiplier = input_scale * learned.scale / output_scale
    bits = headroom_bits(xp, learned, unit, multiplier, weight_max)
    finer = power_of_two(xp, -bits)
    return StoredChannels(bits, xp.round(learned.bias / (unit * finer)), multiplier * finer)


def bias_unit(xp: Library, input_scale: Array, weight_scale: Array) -> Array:
    """`s_x * s_w`, rounded to float32 as kernels do, in float64."""
    return xp.cast(xp.cast(input_scale * weight_scale, "float32"), "float64")


def headroom_bits(
    xp: Library, learned: LearnedChannels, unit: Array, multiplier: Array, weight_max: int
) -> Array:
    """The headroom `k` of every channel, int64.

    It is the largest shift that keeps weights within `+-weight_max`, the accumulator in int32 for
    any int8 input, and the multiplier in range. It is 0 where the multiplier is one half or more,
    and where all weights are 0. Channels that share one scale share the least of their headrooms.
    """
    bias = xp.abs(xp.round(learned.bias / unit))
    accumulator = learned.total * _ANY_CODES + bias + 1.0
    largest = xp.maximum(learned.largest, 1.0)
    room = xp.minimum(
        binary_exponent(xp, weight_max / largest), binary_exponent(xp, INT32_MAX / accumulator)
    )
    room = xp.minimum(room, binary_exponent(xp, multiplier) + 31) - 1
    varies = learned.largest > 0
    if learned.one_scale:
        room, varies = xp.full_like(room, xp.min(room)), xp.full_like(varies, xp.any(varies))
    useful = xp.logical_and(multiplier < 0.5, varies)
    return xp.maximum(room, 0) * xp.cast(useful, "int64")


def binary_exponent(xp: Library, x: Array) -> Array:
    """`e` with `2**(e - 1) <= x < 2**e`, int64, for `2**-64 <= x < 2**64`; else an end of these.

    >>> binary_exponent(NUMPY, np.array([0.4, 0.5, 8.0])).tolist()
    [-1, 0, 4]
    """
    reached = xp.cast(x[..., None] >= _POWERS, "int64")
    return xp.sum(reached, axis=-1) - _EXPONENTS


def power_of_two(xp: Library, exponent: Array) -> Array:
    """`2**exponent` in float64, exactly, for whole exponents from -64 to 64."""
    return xp.take(xp.cast(_POWERS, "float64"), exponent + _EXPONENTS)


def fixed_point_multiplier(xp: Library, real: Array) -> tuple[Array, Array]:
    """Positive real multipliers as `mantissa * 2**(shift - 31)`, both int64.

    The mantissa has 31 bits, rounded with ties away from zero. Multipliers under `2**-32` become
    zero.

    >>> [int(each) for each in fixed_point_multiplier(NUMPY, np.array(0.75))]
    [1610612736, 0]
    """
    shift = binary_exponent(xp, real)
    fraction = real * power_of_two(xp, xp.minimum(xp.maximum(-shift, -_EXPONENTS), _EXPONENTS))
    mantissa = xp.cast(fraction * float(1 << 31) + 0.5, "int64")  # it truncates
    carried = xp.cast(mantissa == (1 << 31), "int64")
    mantissa, shift = mantissa - carried * (1 << 30), shift + carried
    kept = xp.cast(shift >= -31, "int64")
    return mantissa * kept, shift * kept


def exponentials_of_16_bits(xp: Library, scale: Array) -> Array:
    """`exp(-scale * k)` for each distance `k` of two codes, int64, in steps of 1/65535.

    SOFTMAX of LiteRT on arm64 reads this table. The argument and the exponential are float32, so is
    their product with 65535; 1/2 is added in float64.
    """
    arguments = _rounded_to_float32(xp, -scale * np.arange(256.0))
    exponentials = xp.cast(xp.exp(arguments), "float32") * np.float32(65535)
    return xp.cast(xp.cast(exponentials, "float64") + 0.5, "int64")


def fused_multiply_add(xp: Library, a: Array, b: Array, c: Array) -> Array:
    """`a * b + c` of float32 numbers, rounded once to float32. All are float64, the result too.

    The product is exact in float64, and the sum is rounded. That moves the result only if the sum
    then lies half way between two float32 numbers: the part that was lost decides between them.

    >>> float(fused_multiply_add(NUMPY, 1 + 2**-12, 1 + 2**-12, -1 - 2**-11)) == 2.0**-24
    True
    """
    product = a * b
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    nearest = _rounded_to_float32(xp, total)
    rest = total - nearest
    neighbour = nearest + 2.0 * rest
    half_way = xp.logical_and(rest != 0.0, _rounded_to_float32(xp, neighbour) == neighbour)
    beyond = xp.logical_and(half_way, xp.sign(lost) == xp.sign(rest))
    return xp.where(beyond, neighbour, nearest)


def _rounded_to_float32(xp: Library, x: Array) -> Array:
    return xp.cast(xp.cast(x, "float32"), "float64")
