"""What every integer op is: a frozen statement of inputs, output and attributes that can run."""

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
Activation = Literal["linear", "relu", "relu6"]
Padding = Literal["same", "valid"]
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedArray:
    """Integers together with the grid that gives them their meaning."""

    values: IntArray
    qparams: QuantParams

    def centered(self) -> IntArray:
        """The integers minus their zero point: int32, real zero is 0."""
        return self.values.astype(np.int32) - self.qparams.zero_point


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerOp(abc.ABC):
    """One op of an `IntegerGraph`.

    Attributes:
        inputs: names of the activation tensors it reads.
        output: name of the one tensor it writes.
    """

    inputs: tuple[str, ...]
    output: str

    @abc.abstractmethod
    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the output for inputs of these shapes (batch first, NHWC)."""

    @abc.abstractmethod
    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        """The output's integers (int8), as a runtime with that rounding profile computes them."""


@dataclasses.dataclass(frozen=True, eq=False)
class UnaryOp(IntegerOp):
    """One tensor, element by element."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return shape


@dataclasses.dataclass(frozen=True, eq=False)
class BinaryOp(IntegerOp):
    """Two tensors of one rank, element by element.

    Axes of size 1 are repeated along the other tensor's.
    """

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return broadcast(type(self).__name__, *shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearOp(IntegerOp):
    """An op with integer weights, a bias and a fused activation.

    Attributes:
        weight: learned integers (int8, zero point 0, one scale per output channel).
        bias: the real-valued bias, float64, one per output channel. Its int32 form is born from
            it (`integer_bias`) at the scale that input and weights finally have.
        activation: clamp fused behind the op.
        weight_bits: bits of the learned weight grid, whatever the integers are stored in.
        channel_axis: the axis of the weights that runs over output channels.
    """

    channel_axis: ClassVar[int] = 0

    weight: QuantizedArray
    bias: npt.NDArray[np.float64]
    activation: Activation = "linear"
    weight_bits: int = dataclasses.field(default=8, kw_only=True)

    def integer_bias(self, input_scale: FloatArray) -> npt.NDArray[np.int32]:
        """`round(bias / (s_x * s_w))` per channel, ties to even, on the float32 product scale.

        Raises:
            ValueError: a bias that does not fit in int32 on that scale, or is no number.
        """
        steps = np.rint(self.bias / self.bias_scale(input_scale).astype(np.float64))
        outside = ~((steps >= INT32_MIN) & (steps <= INT32_MAX))
        if np.any(outside):
            worst = int(np.argmax(outside))
            raise ValueError(
                f"The bias of channel {worst} of {self.output!r} is {steps[worst]:.3g} steps and "
                "does not fit in int32."
            )
        return steps.astype(np.int32)

    def bias_scale(self, input_scale: FloatArray) -> FloatArray:
        """Real value of one step of the int32 bias, float32 per channel."""
        return np.float32(input_scale) * self.weight.qparams.scale

    def accumulator_bound(self, input_params: QuantParams) -> int:
        """Largest magnitude that the int32 accumulator of any channel can reach."""
        reach = max(
            input_params.qmax - input_params.zero_point, input_params.zero_point - input_params.qmin
        )
        codes = np.abs(self.weight.values.astype(np.int64))
        total = codes.sum(axis=tuple(i for i in range(codes.ndim) if i != self.channel_axis))
        bias = np.abs(self.integer_bias(input_params.scale).astype(np.int64))
        return int((total * reach + bias).max())


def broadcast(kind: str, left: Shape, right: Shape) -> Shape:
    """The shape of two tensors together.

    >>> broadcast("Mul", (1, 8, 8, 4), (1, 1, 1, 4))
    (1, 8, 8, 4)

    Raises:
        ValueError: tensors of other ranks, or sizes that differ where neither is 1.
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
    """The integers that a fused activation leaves possible in an int8 tensor of that grid."""
    low, high = INT8_MIN, INT8_MAX
    if activation in ("relu", "relu6"):
        low = max(low, qparams.zero_point)
    if activation == "relu6":
        steps = int(np.floor(six_in_steps(qparams) + np.float32(0.5)))
        high = min(high, qparams.zero_point + steps)
    return low, high


def six_in_steps(qparams: QuantParams) -> FloatArray:
    """Where a relu6 ends, in steps; of a tiny scale some number beyond int8."""
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

    Floats hold every integer below their mantissa exactly, whatever the order of summation:
    float32 is used when `bound`, the largest possible magnitude of any partial sum, is below
    2**24, float64 otherwise.
    """
    dtype = np.float32 if bound < (1 << 24) else np.float64
    product: FloatArray = left.astype(dtype) @ right.astype(dtype)
    return product.astype(np.int64)


def rescale_of(x: QuantizedArray, weight: QuantParams, output: QuantParams) -> Rescale:
    """The three scales around an accumulator."""
    return Rescale(x.qparams.scale, weight.scale, output.scale)
