"""The grid of a quantizer, and pure functions that round values to its codes."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_qat.integer.qparams import INT8_MAX, QuantParams
from keras_qat.tensors import Tensor

MAX_BITS = 8
_LARGEST_CODE = 255
_POOLED_TIE_MARGIN = 1e-3
"""In steps. The float error of a mean is far smaller. A mean of up to 256 codes is either a tie or
at least 1/512 away from one."""

_INTERPOLATED_TIE_MARGIN = 2.5e-4
"""The same for a mean of four codes whose weights are multiples of 1/1024."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Integer codes `qmin, qmin + step, ..., qmax`; a code `q` stands for `q * scale`.

    Example:

    >>> Grid.for_weights(4), Grid.for_weights(1)
    (Grid(qmin=-8, qmax=7, step=1), Grid(qmin=-1, qmax=1, step=2))
    >>> Grid.for_activations(4, signed=False)
    Grid(qmin=0, qmax=15, step=1)
    """

    qmin: int
    qmax: int
    step: int = 1

    @classmethod
    def for_weights(cls, bits: int) -> Grid:
        """The grid of weights of a bit width: signed codes.

        1 bit is {-1, +1}. 8 bits leave out -128, which no int8 kernel accepts as a weight.
        """
        check_bits(bits, "weight bits")
        if bits == 1:
            return cls(-1, 1, step=2)
        top = (1 << (bits - 1)) - 1
        return cls(-top if bits == MAX_BITS else -top - 1, top)

    @classmethod
    def for_activations(cls, bits: int, signed: bool) -> Grid:
        """The grid of activations of a bit width. It holds 0, so zero padding is exact."""
        check_bits(bits, "activation bits")
        if signed:
            return cls(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        return cls(0, (1 << bits) - 1)

    @property
    def positive_codes(self) -> int:
        """The largest code, at least 1: the `Qp` of LSQ's scale and gradient-scale formulas."""
        return max(self.qmax, 1)

    @property
    def bits(self) -> int:
        """The bit width of the codes."""
        return ((self.qmax - self.qmin) // self.step).bit_length()

    def qparams(self, scale: Any, axis: int | None = None) -> QuantParams:
        """The grid with its scale, in the form of the integer model."""
        return QuantParams(scale, zero_point=0, qmin=self.qmin, qmax=self.qmax, axis=axis)


def stated_grid(grid: Any) -> Grid:
    """A grid that a user or a file states: a `Grid`, or its fields as a dict.

    Raises:
        ValueError: it is neither, or its codes are no whole numbers around 0.

    >>> stated_grid({"qmin": -8, "qmax": 7})
    Grid(qmin=-8, qmax=7, step=1)
    """
    fields = dataclasses.asdict(grid) if isinstance(grid, Grid) else grid
    names = {field.name for field in dataclasses.fields(Grid)}
    if isinstance(fields, Mapping) and {"qmin", "qmax"} <= set(fields) <= names:
        found = Grid(**fields)
        codes = (found.qmin, found.qmax, found.step)
        whole = all(isinstance(each, numbers.Integral) for each in codes)
        if whole and not any(isinstance(each, bool) for each in codes):
            lowest, highest, step = codes
            around_zero = -_LARGEST_CODE <= lowest <= 0 <= highest <= _LARGEST_CODE
            if around_zero and lowest < highest and step in (1, 2):
                return found
    raise ValueError(
        f"A grid has whole codes qmin < qmax from -{_LARGEST_CODE} to {_LARGEST_CODE}, with 0 "
        f"among or between them, and a step of 1 or 2. Received: {grid!r}"
    )


def check_bits(bits: Any, what: str) -> None:
    """Raises a `ValueError` unless `bits` is a whole number from 1 to 8."""
    whole = isinstance(bits, numbers.Integral) and not isinstance(bits, bool)
    if not whole or not 1 <= bits <= MAX_BITS:
        wide = " Activations of 16 bits (16x8 in TFLite) are not supported." if bits == 16 else ""
        raise ValueError(f"The {what} must be a whole number from 1 to 8.{wide} Received: {bits!r}")


def round_to_codes(ratio: Tensor, grid: Grid) -> Tensor:
    """Nearest code of `ratio = x / scale`, as floats: ties go to even, the ends saturate."""
    return nearest_codes(ops.clip(ratio, grid.qmin, grid.qmax), grid)


def nearest_codes(clipped: Tensor, grid: Grid) -> Tensor:
    """Nearest code of ratios within the range of the grid; ties go to even."""
    if grid.step == 1:
        return ops.round(clipped)
    return ops.round((clipped - grid.qmin) / grid.step) * grid.step + grid.qmin


def round_nonnegative_to_codes(ratio: Tensor, grid: Grid) -> Tensor:
    """`round_to_codes` for ratios that are never negative, on a grid from 0: it clips only above.

    Fake-quantize functions with this rounding need no mask for values below the grid.
    """
    return nearest_codes(ops.minimum(ratio, grid.qmax), grid)


def clipped_to_grid(x: Tensor, grid: Grid, scale: Tensor | None, rounding: Any) -> Tensor:
    """`clip(x, qmin * scale, qmax * scale)`; only the upper end for `round_nonnegative_to_codes`.

    Without a scale, `x` is in codes.

    >>> x, grid = ops.array([-9.0, 9.0]), Grid(-2, 1)
    >>> [float(v) for v in clipped_to_grid(x, grid, 0.5, round_to_codes)]
    [-1.0, 0.5]
    """
    clipped = ops.minimum(x, grid.qmax if scale is None else grid.qmax * scale)
    if rounding is round_nonnegative_to_codes:
        return clipped
    return ops.maximum(clipped, grid.qmin if scale is None else grid.qmin * scale)


def round_interpolated_to_codes(ratio: Tensor, grid: Grid) -> Tensor:
    """Nearest code of a weighted mean of codes; ties go up, as in XNNPACK's RESIZE_BILINEAR."""
    return ops.clip(ops.floor(ratio + (0.5 + _INTERPOLATED_TIE_MARGIN)), grid.qmin, grid.qmax)


def round_pooled_to_codes(ratio: Tensor, grid: Grid) -> Tensor:
    """Nearest code of an average of codes, rounded as AVERAGE_POOL_2D rounds it.

    Runtimes average the stored int8 integers, zero point included, and round half away from zero.
    `QuantParams.placed_in_int8` chooses the zero point, here `offset`.
    """
    return _round_stored_codes(ratio, grid, _POOLED_TIE_MARGIN)


def round_resized_to_codes(ratio: Tensor, grid: Grid) -> Tensor:
    """Nearest code of a weighted mean of codes, as the RESIZE_BILINEAR of TFLM rounds it.

    Like `round_pooled_to_codes`: half away from zero, of the stored integers.
    """
    return _round_stored_codes(ratio, grid, _INTERPOLATED_TIE_MARGIN)


def _round_stored_codes(ratio: Tensor, grid: Grid, tie_margin: float) -> Tensor:
    offset = INT8_MAX - grid.qmax
    stored = ratio + offset
    magnitude = ops.floor(ops.abs(stored) + (0.5 + tie_margin))
    return ops.clip(ops.sign(stored) * magnitude - offset, grid.qmin, grid.qmax)
