"""Ops whose output has no grid yet.

A weight layer, the BatchNormalization and the ReLU behind it become one integer op. While the graph
is lowered, a `Pending` value collects them, until a quantizer emits the op on its grid.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.errors import LoweringError
from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.integer.op_numbers import NUMPY, LearnedChannels, within_int32
from keras_qat.integer.ops.op import activation_range
from keras_qat.integer.qparams import INT8_MIN
from keras_qat.lowering.image import flat_name


@dataclasses.dataclass(frozen=True, eq=False)
class Pending(abc.ABC):
    """An op without an output grid: its input tensors and its fused activation."""

    sources: tuple[str, ...]
    activation: ops.Activation = "linear"

    def activated(self, activation: ops.Activation) -> Pending:
        """The same op with a fused activation."""
        return dataclasses.replace(self, activation=activation)

    def emit(self, builder: GraphBuilder, name: str, qparams: QuantParams) -> str:
        """Appends the op on the grid `qparams`, clamps included, and returns its tensor's name."""
        placed = qparams.placed_in_int8()
        if placed.qmin == INT8_MIN or self.activation != "linear":
            return self.add(builder, name, placed)
        clamped = self.clamped_at_zero(builder) if placed.zero_point == placed.qmin else None
        if clamped is not None:
            return clamped.add(builder, name, placed)
        source = self.add(builder, f"{name}/unclamped", dataclasses.replace(placed, qmin=INT8_MIN))
        return builder.add(ops.Maximum((source,), name, bound=placed.qmin), placed)

    def add(self, builder: GraphBuilder, name: str, grid: QuantParams) -> str:
        """Appends the op on a grid of int8 codes, without a lower clamp."""
        low, high = activation_range(self.activation, grid)
        grid = dataclasses.replace(grid, qmin=max(low, grid.qmin), qmax=high)
        return builder.add(self.finalize(builder, name, grid), grid)

    def clamped_at_zero(self, builder: GraphBuilder) -> Pending | None:
        """The same op, clamped at zero without another op; `None` if that is impossible."""
        return self if self.activation != "linear" else self.activated("relu")

    @abc.abstractmethod
    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        """The integer op that writes tensor `name` on the int8 grid `output`."""


@dataclasses.dataclass(frozen=True, eq=False)
class PendingLinear(Pending):
    """Learned integers with a real scale and a real bias for each output channel.

    Attributes:
        op: type of the integer op.
        codes: learned integers in the layout of the op.
        channel_axis: the axis of `codes` that counts the output channels.
        scale: real value of one code, float64 per channel.
        bias: real bias, float64 per channel.
        weight_bits: bit width of the learned grid.
        options: strides, padding and dilation.
        one_scale: whether all channels share one scale in the file.
    """

    op: type[ops.LinearOp] = dataclasses.field(kw_only=True)
    codes: npt.NDArray[Any] = dataclasses.field(kw_only=True)
    channel_axis: int = dataclasses.field(kw_only=True)
    scale: npt.NDArray[np.float64] = dataclasses.field(kw_only=True)
    bias: npt.NDArray[np.float64] = dataclasses.field(kw_only=True)
    weight_bits: int = dataclasses.field(kw_only=True)
    options: Mapping[str, Any] = dataclasses.field(kw_only=True, default_factory=dict)
    one_scale: bool = dataclasses.field(kw_only=True, default=False)

    def affine(
        self, gain: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]
    ) -> PendingLinear:
        """`gain * y + offset` per channel: `|gain|` goes into the scale, its sign into the codes.

        The offset goes into the bias.

        Raises:
            LoweringError: the channels share one scale, and the gains differ.
        """
        if self.one_scale and np.unique(np.abs(gain)).size > 1:
            raise LoweringError(
                f"The op on {self.sources[0]!r} has one weight scale, and a map behind it has a "
                "gain for each channel. Give it a scale for each channel."
            )
        return dataclasses.replace(
            self,
            codes=self.codes * self._per_channel(np.sign(gain).astype(np.int64)),
            scale=self.scale * np.abs(gain),
            bias=self.bias * gain + offset,
        )

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        source = builder.tensor(self.sources[0]).qparams
        codes, scale, bias = self._within_int32(source, output, name)
        scales, axis = (scale[0], None) if self.one_scale else (scale, self.channel_axis)
        grid = QuantParams(scales.astype(np.float32), 0, -127, 127, axis)
        weight = ops.QuantizedArray(codes.astype(np.int8), grid)
        return self.op(
            self.sources,
            name,
            weight,
            bias,
            self.activation,
            weight_bits=self.weight_bits,
            **self.options,
        )

    def _within_int32(
        self, source: QuantParams, output: QuantParams, name: str
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Codes, scales and biases that a file can hold (`op_numbers.within_int32`).

        Raises:
            LoweringError: a channel needs a bias beyond int32.
        """
        axes = tuple(axis for axis in range(self.codes.ndim) if axis != self.channel_axis)
        codes = np.abs(self.codes.astype(np.float64))
        learned = LearnedChannels(
            codes.sum(axis=axes),
            codes.max(axis=axes, initial=0.0),
            self.scale,
            self.bias,
            self.one_scale,
        )
        reach = max(source.qmax - source.zero_point, source.zero_point - source.qmin)
        scales = float(source.scale), float(output.scale)
        fitted, counts, refused = within_int32(NUMPY, learned, *scales, reach)
        if np.any(refused):
            channel = int(np.argmax(refused))
            raise LoweringError(
                f"Channel {channel} of {name!r} needs a bias beyond int32: its weights are tiny "
                f"(scale {self.scale[channel]:.3g}) beside its bias ({self.bias[channel]:.3g}). "
                + (
                    "Give the layer a scale for each unit: per_tensor_dense=False."
                    if self.one_scale
                    else "Train the model further, or prune the channel."
                )
            )
        return self.codes * self._per_channel(counts), fitted.scale, fitted.bias

    def _per_channel(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shape = [1] * self.codes.ndim
        shape[self.channel_axis] = -1
        return values.reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class PendingBinary(Pending):
    """The sum, the difference or the product of two tensors."""

    op: type[ops.ArithmeticOp] = dataclasses.field(kw_only=True)

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        return self.op(self.sources, name, self.activation)


@dataclasses.dataclass(frozen=True, eq=False)
class PendingMean(Pending):
    """The mean over height and width."""

    def clamped_at_zero(self, builder: GraphBuilder) -> Pending | None:
        source = builder.tensor(self.sources[0]).qparams
        return self if source.qmin >= source.zero_point else None

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        return ops.Mean(self.sources, name)


@dataclasses.dataclass(frozen=True, eq=False)
class PendingReshape(Pending):
    """Another pending op whose output is reshaped once it is on its grid."""

    inner: Pending = dataclasses.field(kw_only=True)
    target_shape: ops.Shape = dataclasses.field(kw_only=True)

    def activated(self, activation: ops.Activation) -> Pending:
        return dataclasses.replace(self, inner=self.inner.activated(activation))

    def affine(
        self, gain: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]
    ) -> PendingReshape:
        """`gain * y + offset` per channel, of a linear op."""
        if not isinstance(self.inner, PendingLinear):
            raise LoweringError("Gains and offsets can be folded into a linear op only.")
        return dataclasses.replace(self, inner=self.inner.affine(gain, offset))

    def emit(self, builder: GraphBuilder, name: str, qparams: QuantParams) -> str:
        source = self.inner.emit(builder, flat_name(name), qparams)
        op = ops.Reshape((source,), name, self.target_shape)
        return builder.add(op, builder.tensor(source).qparams)

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        raise LoweringError(f"Tensor {name!r} is reshaped before it is quantized.")
