"""The grid of one tensor: the real number that each integer stands for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

INT8_MIN, INT8_MAX = -128, 127

IntArray = npt.NDArray[np.signedinteger[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class QuantParams:
    """A grid: the integer `q` stands for `scale * (q - zero_point)`, for `qmin <= q <= qmax`.

    Args:
        scale: float32, positive. One number (shape `()`) for a per-tensor grid, or one number
            per channel (shape `(channels,)`).
        zero_point: the integer that stands for 0.0.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        axis: the channel axis of a per-channel grid, `None` for a per-tensor grid.

    Raises:
        ValueError: a scale that is not positive and finite, an empty range, or a per-channel
            scale without an axis.

    Example:

    >>> four_bits = QuantParams(np.float32(0.5), zero_point=0, qmin=0, qmax=15)
    >>> four_bits.quantize(np.array([-1.0, 0.3, 0.75, 99.0])).tolist()
    [0, 1, 2, 15]
    >>> four_bits.dequantize(np.array([0, 1, 15])).tolist()
    [0.0, 0.5, 7.5]
    """

    scale: FloatArray
    zero_point: int = 0
    qmin: int = INT8_MIN
    qmax: int = INT8_MAX
    axis: int | None = None

    def __post_init__(self) -> None:
        for name in ("zero_point", "qmin", "qmax", "axis"):
            value = getattr(self, name)
            if not (isinstance(value, int | np.integer) or (name == "axis" and value is None)):
                raise ValueError(f"{name} must be a whole number. Received: {value!r}")
        scale = np.asarray(self.scale, dtype=np.float32)
        object.__setattr__(self, "scale", scale)
        if not np.all(np.isfinite(scale) & (scale > 0)):
            raise ValueError(
                f"scale must be positive and finite. Received: scale={scale.min()}..{scale.max()}"
            )
        if self.qmin > self.qmax:
            raise ValueError(
                f"qmin must not exceed qmax. Received: qmin={self.qmin}, qmax={self.qmax}"
            )
        if (scale.ndim == 0) != (self.axis is None) or scale.ndim > 1:
            raise ValueError(
                "scale and axis must fit: a per-tensor grid has a scalar scale and axis=None, a "
                "per-channel grid has a vector and its axis. "
                f"Received: scale.shape={scale.shape}, axis={self.axis}"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantParams):
            return NotImplemented
        return self.ends == other.ends and np.array_equal(self.scale, other.scale)

    def __hash__(self) -> int:
        return hash((self.ends, self.scale.tobytes()))

    @property
    def ends(self) -> tuple[int, int, int, int | None]:
        """`(zero_point, qmin, qmax, axis)`: everything except the scale."""
        return (self.zero_point, self.qmin, self.qmax, self.axis)

    @property
    def levels(self) -> int:
        """The number of levels of the grid."""
        return self.qmax - self.qmin + 1

    def quantize(self, x: npt.ArrayLike) -> IntArray:
        """The nearest codes, ties to even, saturated: int32, in the shape of `x`."""
        x = np.asarray(x, dtype=np.float32)
        steps = np.rint(x / self._broadcast_scale(x.ndim)) + self.zero_point
        codes: npt.NDArray[np.int32] = np.clip(steps, self.qmin, self.qmax).astype(np.int32)
        return codes

    def dequantize(self, q: npt.ArrayLike) -> FloatArray:
        """The float32 values that the integers `q` stand for, in the shape of `q`."""
        q = np.asarray(q)
        steps = (q.astype(np.int32) - self.zero_point).astype(np.float32)
        values: FloatArray = steps * self._broadcast_scale(q.ndim)
        return values

    def placed_in_int8(self) -> QuantParams:
        """The same real numbers with shifted codes: the largest code is 127.

        Saturation of int8 is then the upper clamp, for any bit width. The lower clamp is a fused
        ReLU (a grid that starts at zero), the saturation of int8 (256 levels) or one MAXIMUM (any
        other grid).

        Raises:
            ValueError: a grid of more than 256 levels.

        >>> QuantParams(np.float32(1), zero_point=0, qmin=0, qmax=15).placed_in_int8().zero_point
        112
        """
        shift = INT8_MAX - self.qmax
        if self.qmin + shift < INT8_MIN:
            raise ValueError(
                f"A grid of {self.levels} levels does not fit in int8. "
                f"Received: qmin={self.qmin}, qmax={self.qmax}"
            )
        return dataclasses.replace(
            self,
            zero_point=self.zero_point + shift,
            qmin=self.qmin + shift,
            qmax=INT8_MAX,
        )

    def _broadcast_scale(self, rank: int) -> FloatArray:
        if self.axis is None:
            return self.scale
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape)
