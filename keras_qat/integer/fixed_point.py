"""From an int32 accumulator to int8: the rounding of every runtime, by name.

A layer multiplies its int32 accumulator by the real number `M = s_x * s_w / s_y`. Runtimes do that
in fixed point (a 31-bit mantissa and a shift) or in float32, and round differently. Each function
here states one of these ways in explicit 64-bit arithmetic. A `RoundingProfile` names the function
that a runtime uses for each op.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.op_numbers import NUMPY, fixed_point_multiplier
from keras_qat.integer.qparams import FloatArray, IntArray

Int64Array = npt.NDArray[np.int64]


def quantize_multiplier(real: npt.ArrayLike) -> tuple[Int64Array, Int64Array]:
    """Positive real multipliers as `mantissa * 2**(shift - 31)`, the mantissa in 31 bits.

    The mantissa is rounded, ties away from zero. Multipliers under `2**-32` become zero.

    >>> mantissa, shift = quantize_multiplier(0.75)
    >>> int(mantissa), int(shift)
    (1610612736, 0)
    """
    mantissa, shift = fixed_point_multiplier(NUMPY, np.asarray(real, dtype=np.float64))
    return mantissa, shift


def saturating_rounding_doubling_high_mul(a: Int64Array, b: Int64Array | int) -> Int64Array:
    """`round(a * b / 2**31)` of two int32 numbers, ties up, saturating."""
    high: Int64Array = np.minimum((a * b + (1 << 30)) >> 31, (1 << 31) - 1)
    return high


def rounding_divide_by_power_of_two(x: Int64Array, exponent: Int64Array | int) -> Int64Array:
    """`round(x / 2**exponent)`, ties away from zero."""
    exponent = np.asarray(exponent, dtype=np.int64)
    half = (np.int64(1) << exponent) >> 1
    one_less_if_negative = (x >> 63) * (exponent > 0)
    rounded: Int64Array = (x + half + one_less_if_negative) >> exponent
    return rounded


def multiply_double_rounding(x: Int64Array, mantissa: Int64Array, shift: Int64Array) -> Int64Array:
    """As in TFLM: a high multiply (ties up), then a right shift (ties away from zero)."""
    left = np.maximum(shift, 0)
    right = np.maximum(-shift, 0)
    high = saturating_rounding_doubling_high_mul(_wrap_int32(x << left), mantissa)
    return rounding_divide_by_power_of_two(high, right)


def multiply_single_rounding(x: Int64Array, mantissa: Int64Array, shift: Int64Array) -> Int64Array:
    """One 64-bit product, one rounding shift, ties away from zero."""
    return rounding_divide_by_power_of_two(x * mantissa, 31 - shift)


@dataclasses.dataclass(frozen=True, eq=False)
class Rescale:
    """The three scales around one accumulator, as the float32 numbers a file holds."""

    input_scale: FloatArray
    weight_scale: FloatArray
    output_scale: FloatArray

    def real_multiplier(self) -> npt.NDArray[np.float64]:
        """`M`, in float64 from the float32 scales."""
        product = self.input_scale.astype(np.float64) * self.weight_scale.astype(np.float64)
        return product / self.output_scale.astype(np.float64)

    def float32_multiplier(self) -> FloatArray:
        """`M`, with every operation in float32."""
        return np.float32(self.input_scale) * self.weight_scale / np.float32(self.output_scale)


def rescale_double_rounding(accumulator: IntArray, rescale: Rescale) -> IntArray:
    """Fixed point, two roundings (TFLM, LiteRT's reference convolutions)."""
    mantissa, shift = quantize_multiplier(rescale.real_multiplier())
    return multiply_double_rounding(accumulator.astype(np.int64), mantissa, shift)


def rescale_double_rounding_of_float32(accumulator: IntArray, rescale: Rescale) -> IntArray:
    """Fixed point, two roundings, with `M` computed in float32 (LiteRT's reference MUL)."""
    mantissa, shift = quantize_multiplier(rescale.float32_multiplier())
    return multiply_double_rounding(accumulator.astype(np.int64), mantissa, shift)


def rescale_single_rounding(accumulator: IntArray, rescale: Rescale) -> IntArray:
    """Fixed point, one rounding (LiteRT's reference fully-connected)."""
    mantissa, shift = quantize_multiplier(rescale.real_multiplier())
    return multiply_single_rounding(accumulator.astype(np.int64), mantissa, shift)


def rescale_float32(accumulator: IntArray, rescale: Rescale) -> IntArray:
    """Float32 product, ties to even (XNNPACK)."""
    product = accumulator.astype(np.float32) * rescale.float32_multiplier()
    return np.rint(product).astype(np.int64)


def rescale_with_floored_product(accumulator: IntArray, rescale: Rescale) -> IntArray:
    """Fixed point, a floor and a rounding shift, ties up (XNNPACK's MUL on arm64).

    The mantissa is the one of `M` in float32, with 31 bits.
    """
    fraction, exponent = np.frexp(rescale.float32_multiplier())
    mantissa = (fraction.astype(np.float64) * 2.0**31).astype(np.int64)
    shift = np.maximum(-exponent, 1).astype(np.int64)
    raised = accumulator.astype(np.int64) << (shift + exponent)
    high = (np.clip(raised, -(1 << 31), (1 << 31) - 1) * mantissa) >> 31
    steps: Int64Array = (high + (np.int64(1) << (shift - 1))) >> shift
    return steps


_REFUSES_WRAPPING: contextvars.ContextVar[bool] = contextvars.ContextVar("wraps", default=False)


@contextlib.contextmanager
def refusing_to_wrap() -> Iterator[None]:
    """A context in which a value that leaves int32 is an `OverflowError`.

    Outside it wraps, as it does in the runtimes.
    """
    token = _REFUSES_WRAPPING.set(True)
    try:
        yield
    finally:
        _REFUSES_WRAPPING.reset(token)


def _wrap_int32(x: Int64Array) -> Int64Array:
    """`x` modulo `2**32`: a left shift overflows silently, as it does in the runtimes.

    Raises:
        OverflowError: a value leaves int32 inside `refusing_to_wrap`.
    """
    wrapped = x.astype(np.int32).astype(np.int64)
    if _REFUSES_WRAPPING.get() and np.any(wrapped != x):
        worst = int(x.flat[np.argmax(np.abs(x))])
        raise OverflowError(f"{worst:,} leaves int32, and wraps in the runtime")
    return wrapped


RescaleFunction = Callable[[IntArray, Rescale], IntArray]


def quantize_half_away(values: FloatArray, scale: FloatArray) -> FloatArray:
    """`round(x / s)`, ties away from zero (LiteRT's reference kernels, TFLM)."""
    steps = values / scale
    whole = np.trunc(steps)
    tied = np.abs(steps - whole) == np.float32(0.5)
    rounded: FloatArray = np.where(tied, whole + np.sign(steps), np.rint(steps))
    return rounded


def quantize_by_reciprocal(values: FloatArray, scale: FloatArray) -> FloatArray:
    """`round(x * (1 / s))`, ties to even (XNNPACK)."""
    rounded: FloatArray = np.rint(values * (np.float32(1.0) / scale))
    return rounded


@dataclasses.dataclass(frozen=True)
class RoundingProfile:
    """The rounding of one runtime: the arithmetic that it uses for each kind of op.

    Attributes:
        name: the name of the runtime, with the processor where that decides.
        conv, depthwise_conv, fully_connected, mul, prelu, transpose_conv: from an accumulator to
            steps of the output.
        float_add: whether ADD and SUB take multipliers of float32 scales, with one rounding.
        float_mean: whether MEAN rescales in float32.
        float_softmax: whether SOFTMAX sums float32 exponentials.
        resize_ties_up: whether RESIZE_BILINEAR rounds ties up, else away from zero.
        quantize: from real numbers to steps.
        fused_mean: whether MEAN rounds `a * b + c` once, as one instruction does.
        softmax_table: whether SOFTMAX reads exponentials from a table of 16 bits.
    """

    name: str
    conv: RescaleFunction
    depthwise_conv: RescaleFunction
    fully_connected: RescaleFunction
    mul: RescaleFunction
    prelu: RescaleFunction
    transpose_conv: RescaleFunction
    float_add: bool
    float_mean: bool
    float_softmax: bool
    resize_ties_up: bool
    quantize: Callable[[FloatArray, FloatArray], FloatArray]
    fused_mean: bool = False
    softmax_table: bool = False


_XNNPACK_X86 = RoundingProfile(
    name="xnnpack-x86",
    conv=rescale_float32,
    depthwise_conv=rescale_float32,
    fully_connected=rescale_float32,
    mul=rescale_float32,
    prelu=rescale_double_rounding_of_float32,  # XNNPACK leaves PRELU to LiteRT
    transpose_conv=rescale_float32,
    float_add=True,
    float_mean=True,
    float_softmax=True,
    resize_ties_up=True,
    quantize=quantize_by_reciprocal,
)

PROFILES: dict[str, RoundingProfile] = {
    profile.name: profile
    for profile in (
        RoundingProfile(
            name="tflm",
            conv=rescale_double_rounding,
            depthwise_conv=rescale_double_rounding,
            fully_connected=rescale_double_rounding,
            mul=rescale_double_rounding,
            prelu=rescale_double_rounding,
            transpose_conv=rescale_double_rounding,
            float_add=False,
            float_mean=False,
            float_softmax=False,
            resize_ties_up=False,
            quantize=quantize_half_away,
        ),
        RoundingProfile(
            name="litert_ref",
            conv=rescale_double_rounding,
            depthwise_conv=rescale_double_rounding,
            fully_connected=rescale_single_rounding,
            mul=rescale_double_rounding_of_float32,
            prelu=rescale_double_rounding_of_float32,
            transpose_conv=rescale_double_rounding,
            float_add=False,
            float_mean=False,
            float_softmax=False,
            resize_ties_up=False,
            quantize=quantize_half_away,
        ),
        _XNNPACK_X86,
        dataclasses.replace(
            _XNNPACK_X86,
            name="xnnpack-arm64",
            mul=rescale_with_floored_product,
            fused_mean=True,
            softmax_table=True,
        ),
    )
}
"""The rounding of each runtime by its name.

`"tflm"` is TensorFlow Lite Micro, `"litert_ref"` LiteRT with its reference kernels. `"xnnpack-x86"`
and `"xnnpack-arm64"` are LiteRT with XNNPACK, its default, on these processors. They differ in MUL,
MEAN and SOFTMAX. `"xnnpack"` means `"xnnpack-x86"`.
"""
PROFILES["xnnpack"] = _XNNPACK_X86


def get_profile(identifier: str | RoundingProfile) -> RoundingProfile:
    """The profile of a name; a profile is returned as it is.

    Raises:
        ValueError: an unknown name. The message lists the known ones.
    """
    if isinstance(identifier, RoundingProfile):
        return identifier
    if identifier not in PROFILES:
        known: Any = ", ".join(map(repr, PROFILES))
        raise ValueError(f"The rounding profile must be one of {known}. Received: {identifier!r}")
    return PROFILES[identifier]
