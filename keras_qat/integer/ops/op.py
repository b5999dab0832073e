"""The base of the integer ops: frozen dataclasses that state an op and can evaluate it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from keras_qat.integer.fixed_point import Rescale, RoundingProfile
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN, FloatArray, IntArray, QuantParams

Shape = tuple[int, ...]
"""The size of a tensor, without its first axis where that is the examples."""
Activation = Literal["linear", "relu", "relu6"]
"""What an op applies to its result before it rounds."""
Padding = Literal["same", "valid"]
"""Where a window may lie: also beyond the image, or inside it alone."""
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedArray:
    """Integers and their grid."""

    values: IntArray
    qparams: QuantParams

    def centered(self) -> IntArray:
        """The integers minus their zero point, as int32: the real number 0 is 0."""
        return self.values.astype(np.int32) - self.qparams.zero_point


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerOp(abc.ABC):
    """One op of an `IntegerGraph`.

    Attributes:
        inputs: names of the activation tensors that the op reads.
        output: name of the one tensor that the op writes.
        output_dtype: dtype of that tensor: `"int8"`, or `"float32"` for an op that rounds nothing.
    """

    output_dtype: ClassVar[str] = "int8"

    inputs: tuple[str, ...]
    output: str

    @abc.abstractmethod
    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the output for inputs of these shapes (batch first, NHWC)."""

    @abc.abstractmethod
    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        """The integers of the output (int8), with the rounding of the profile."""


@dataclasses.dataclass(frozen=True, eq=False)
class UnaryOp(IntegerOp):
    """An op on one tensor, element by element."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return shape


@dataclasses.dataclass(frozen=True, eq=False)
class BinaryOp(IntegerOp):
    """An op on two tensors of one rank, element by element.

    An axis of size 1 is repeated to the size of that axis in the other tensor.
    """

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return broadcast(type(self).__name__, *shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearOp(IntegerOp):
    """An op with integer weights, a bias and a fused activation.

    Attributes:
        weight: learned integers (int8, zero point 0, one scale per output channel).
        bias: the real bias, float64, one number per output channel. `integer_bias` computes its
            int32 form from the final scales of input and weights.
        activation: activation fused behind the op.
        weight_bits: bit width of the learned weight grid, however the integers are stored.
        channel_axis: the axis of the weights that counts the output channels.
    """

    channel_axis: ClassVar[int] = 0

    weight: QuantizedArray
    bias: npt.NDArray[np.float64]
    activation: Activation = "linear"
    weight_bits: int = dataclasses.field(default=8, kw_only=True)

    def integer_bias(self, input_scale: FloatArray) -> npt.NDArray[np.int32]:
        """`round(bias / (s_x * s_w))` per channel, ties to even; `s_x * s_w` is float32.

        Raises:
            ValueError: a bias that does not fit in int32 on that scale, or is not a number.
        """
        with np.errstate(divide="ignore", invalid="ignore"):  # a unit that float32 rounds to 0
            steps = np.rint(self.bias / self.bias_scale(input_scale).astype(np.float64))
        outside = ~((steps >= INT32_MIN) & (steps <= INT32_MAX))
        if np.any(outside):
            worst = int(np.argmax(outside))
            raise ValueError(
                f"Op {self.output!r}: the bias of channel {worst} is {steps[worst]:.3g} steps and "
                "does not fit in int32."
            )
        return steps.astype(np.int32)

    def bias_scale(self, input_scale: FloatArray) -> FloatArray:
        """The unit of the int32 bias, `s_x * s_w`: float32 per channel."""
        return np.float32(input_scale) * self.weight.qparams.scale

    def accumulator_bound(self, input_params: QuantParams) -> int:
        """The largest magnitude that the accumulator of any channel can reach."""
        reach = max(
            input_params.qmax - input_params.zero_point, input_params.zero_point - input_params.qmin
        )
        codes = np.abs(self.weight.values.astype(np.int64))
        total = codes.sum(axis=tuple(i for i in range(codes.ndim) if i != self.channel_axis))
        bias = np.abs(self.integer_bias(input_params.scale).astype(np.int64))
        return int((total * reach + bias).max())


def broadcast(kind: str, left: Shape, right: Shape) -> Shape:
    """The shape that two tensors broadcast to.

    >>> broadcast("Mul", (1, 8, 8, 4), (1, 1, 1, 4))
    (1, 8, 8, 4)

    Raises:
        ValueError: tensors of different ranks, or sizes that differ where neither is 1.
    """
    fit = len(left) == len(right) and all(
        a == b or 1 in (a, b) for a, b in zip(left, right, strict=True)
    )
    if not fit:
        raise ValueError(
            f"{kind} needs two tensors of one rank, with equal sizes or sizes of 1. "
            f"Received: {left} and {right}"
        )
    return tuple(np.broadcast_shapes(left, right))


def activation_range(activation: Activation, qparams: QuantParams) -> tuple[int, int]:
    """The smallest and the largest int8 code that a fused activation can yield on this grid."""
    low, high = INT8_MIN, INT8_MAX
    if activation in ("relu", "relu6"):
        low = max(low, qparams.zero_point)
    if activation == "relu6":
        steps = int(np.floor(six_in_steps(qparams) + np.float32(0.5)))
        high = min(high, qparams.zero_point + steps)
    return low, high


def six_in_steps(qparams: QuantParams) -> FloatArray:
    """The number 6 in steps of the grid, at most 510: then it lies beyond int8 anyway."""
    with np.errstate(over="ignore"):
        six = np.float32(6.0) / qparams.scale
    return np.asarray(np.minimum(six, np.float32(2 * (INT8_MAX - INT8_MIN))))


def finish(
    steps: IntArray, output: QuantParams, activation: Activation = "linear"
) -> npt.NDArray[np.int8]:
    """Adds the zero point, applies the fused activation and saturates to int8."""
    low, high = activation_range(activation, output)
    return np.clip(steps + output.zero_point, low, high).astype(np.int8)


def accumulate(left: IntArray, right: IntArray, bound: int) -> IntArray:
    """Exact integer matrix product through float BLAS.

    float32 holds every integer below 2**24 exactly, so the order of summation does not matter. It
    is used where `bound`, the largest possible magnitude of any partial sum, is below 2**24, and
    float64 elsewhere.
    """
    dtype = np.float32 if bound < (1 << 24) else np.float64
    product: FloatArray = left.astype(dtype) @ right.astype(dtype)
    return product.astype(np.int64)


def rescale_of(x: QuantizedArray, weight: QuantParams, output: QuantParams) -> Rescale:
    """The three scales around an accumulator."""
    return Rescale(x.qparams.scale, weight.scale, output.scale)
