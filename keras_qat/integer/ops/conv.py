"""Convolutions: CONV_2D and DEPTHWISE_CONV_2D."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import (
    LinearOp,
    Padding,
    QuantizedArray,
    Shape,
    accumulate,
    finish,
    rescale_of,
)
from keras_qat.integer.ops.window import Window
from keras_qat.integer.qparams import IntArray, QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class WindowedLinearOp(LinearOp):
    """Weights in a window that slides over height and width.

    Attributes:
        strides: distance of two positions of the window.
        padding: `"same"` or `"valid"`.
        dilation: distance of two taps in the window.
    """

    strides: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    dilation: tuple[int, int] = (1, 1)

    @property
    def window(self) -> Window:
        """The sliding window of this op."""
        height, width = self.weight.values.shape[1:3]
        return Window((height, width), self.strides, self.padding, self.dilation)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        channels = self.weight.values.shape[self.channel_axis]
        return (shape[0], *self.window.output_size(shape[1:3]), channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Conv2D(WindowedLinearOp):
    """Convolution. The weights have the layout (out, height, width, in) and channel axis 0.

    The op has groups where the weights have fewer input channels than the input: the first filters
    read the first input channels, and the next filters the next channels.
    """

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        filters, channels = self.weight.values.shape[0], self.weight.values.shape[3]
        groups, rest = divmod(shapes[0][3], channels)
        if rest or filters % groups:
            raise ValueError(
                f"Op {self.output!r}: {filters} filters over {channels} channels do not group an "
                f"input of {shapes[0][3]} channels."
            )
        return super().output_shape(shapes)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        filters, height, width, channels = self.weight.values.shape
        groups = x.values.shape[3] // channels
        patches = self.window.patches(x.centered())
        rows = patches.reshape(-1, height * width, groups, channels)
        kernels = self.weight.values.reshape(groups, filters // groups, height * width * channels)
        bound = self.accumulator_bound(x.qparams)
        sums = [
            accumulate(rows[:, :, group].reshape(-1, kernel.shape[1]), kernel.T, bound)
            for group, kernel in enumerate(kernels)
        ]
        accumulator = np.concatenate(sums, axis=-1) + self.integer_bias(x.qparams.scale)
        steps = profile.conv(accumulator, rescale_of(x, self.weight.qparams, output))
        codes = finish(steps, output, self.activation)
        return codes.reshape(*patches.shape[:3], filters)


@dataclasses.dataclass(frozen=True, eq=False)
class DepthwiseConv2D(WindowedLinearOp):
    """Depthwise convolution: output channel `c * multiplier + m` reads input channel `c`.

    The weights have the layout (1, height, width, in * multiplier) and channel axis 3.
    """

    channel_axis: ClassVar[int] = 3

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        patches = self.window.patches(x.centered())
        kernel = self.weight.values[0].astype(np.int32)
        multiplier = kernel.shape[2] // patches.shape[-1]
        accumulator: IntArray = self.integer_bias(x.qparams.scale)
        for row, column in np.ndindex(*kernel.shape[:2]):
            tap = np.repeat(patches[:, :, :, row, column], multiplier, axis=-1)
            accumulator = accumulator + tap * kernel[row, column]
        steps = profile.depthwise_conv(accumulator, rescale_of(x, self.weight.qparams, output))
        return finish(steps, output, self.activation)
