"""TRANSPOSE_CONV: the convolution that makes images larger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
class TransposeConv2D(LinearOp):
    """Transposed convolution. The weights have the layout (out, height, width, in), channel axis 0.

    Input pixel `(r, c)` adds to output pixels `(r * stride + i - top, c * stride + j - left)`. A
    convolution with the same window over the output must yield the size of the input: `top` and
    `left` are its padding.

    Attributes:
        strides: distance of two positions of the window over the output.
        padding: `"same"` or `"valid"`.
        output_size: height and width of the output.
    """

    strides: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    output_size: tuple[int, int] = dataclasses.field(kw_only=True)

    @property
    def window(self) -> Window:
        """The window of the convolution from the output to the input."""
        height, width = self.weight.values.shape[1:3]
        return Window((height, width), self.strides, self.padding)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        ((batch, *spatial, _),) = shapes
        if self.window.output_size(self.output_size) != tuple(spatial):
            raise ValueError(
                f"Op {self.output!r}: no {self.padding!r} window of strides {self.strides} over "
                f"{self.output_size} has {tuple(spatial)} positions."
            )
        return (batch, *self.output_size, self.weight.values.shape[0])

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        accumulator = self._scattered(x) + self.integer_bias(x.qparams.scale)
        steps = profile.transpose_conv(accumulator, rescale_of(x, self.weight.qparams, output))
        return finish(steps, output, self.activation)

    def _scattered(self, x: QuantizedArray) -> IntArray:
        """The products of every pixel with the weights, added up in the output."""
        centered, bound = x.centered(), self.accumulator_bound(x.qparams)
        batch, *spatial, channels = centered.shape
        pads = self.window.pads(self.output_size)
        sizes = [size + sum(pad) for size, pad in zip(self.output_size, pads, strict=True)]
        filters = self.weight.values.shape[0]
        total = np.zeros((batch, *sizes, filters), dtype=np.int64)
        pixels = centered.reshape(-1, channels)
        for taps in np.ndindex(*self.window.size):
            weights = self.weight.values[(slice(None), *taps)].T
            reached = tuple(
                slice(tap, tap + (size - 1) * stride + 1, stride)
                for tap, size, stride in zip(taps, spatial, self.strides, strict=True)
            )
            product = accumulate(pixels, weights, bound)
            total[(slice(None), *reached)] += product.reshape(batch, *spatial, filters)
        (top, _), (left, _) = pads
        rows, columns = self.output_size
        return total[:, top : top + rows, left : left + columns]
