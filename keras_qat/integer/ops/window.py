"""The sliding window that convolutions and pooling share."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_qat.integer.ops.op import Padding
from keras_qat.integer.qparams import IntArray


@dataclasses.dataclass(frozen=True)
class Window:
    """Size, stride, padding rule and dilation of a 2D window.

    `"same"` padding follows TensorFlow: the output has `ceil(size / stride)` positions, and an odd
    row or column of padding goes to the end.

    >>> Window((3, 3), (2, 2), "same").output_size((8, 7))
    (4, 4)
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding
    dilation: tuple[int, int] = (1, 1)

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the output, for the height and width of the input."""
        rows, columns = (self._positions(axis, spatial[axis]) for axis in range(2))
        return rows, columns

    def pads(self, spatial: tuple[int, ...]) -> list[tuple[int, int]]:
        """(before, after) padding of height and width."""
        result = []
        for axis in range(2):
            needed = 0
            if self.padding == "same":
                last = (self._positions(axis, spatial[axis]) - 1) * self.strides[axis]
                needed = max(last + self._reach(axis) - spatial[axis], 0)
            result.append((needed // 2, needed - needed // 2))
        return result

    def patches(self, x: IntArray, fill: int = 0) -> IntArray:
        """All windows of `x` (N, H, W, C): (N, rows, columns, height, width, C), a view."""
        spatial = x.shape[1:3]
        pads = [(0, 0), *self.pads(spatial), (0, 0)]
        padded = np.pad(x, pads, constant_values=fill)
        reach = (self._reach(0), self._reach(1))
        views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
        views = views[
            :, :: self.strides[0], :: self.strides[1], :, :: self.dilation[0], :: self.dilation[1]
        ]
        return np.moveaxis(views, 3, -1)

    def _reach(self, axis: int) -> int:
        return (self.size[axis] - 1) * self.dilation[axis] + 1

    def _positions(self, axis: int, size: int) -> int:
        if self.padding == "same":
            return -(-size // self.strides[axis])
        return (size - self._reach(axis)) // self.strides[axis] + 1
