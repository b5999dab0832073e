"""LOOKUP: a function of one number, as a table of 256 values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import QuantizedArray, UnaryOp
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN, IntArray, QuantParams

TABLE_SIZE = INT8_MAX - INT8_MIN + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(UnaryOp):
    """`table[x + 128]` for every integer `x`, the same in every runtime.

    Attributes:
        table: 256 int8 values, on the output's grid.

    Raises:
        ValueError: a table of another size or type.
    """

    table: npt.NDArray[np.int8]

    def __post_init__(self) -> None:
        if self.table.shape != (TABLE_SIZE,) or self.table.dtype != np.int8:
            raise ValueError(
                f"The table of {self.output!r} needs {TABLE_SIZE} int8 values. "
                f"Received: {self.table.dtype}, shape {self.table.shape}"
            )

    def check_table(self, output: QuantParams) -> None:
        """Raises a ValueError unless every entry of the table is on the output's grid."""
        low, high = int(self.table.min()), int(self.table.max())
        if low < output.qmin or high > output.qmax:
            raise ValueError(
                f"The table of {self.output!r} leaves its grid, {output.qmin} to {output.qmax}. "
                f"Received: entries from {low} to {high}"
            )

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        (x,) = inputs
        entries: IntArray = self.table[x.values.astype(np.int32) - INT8_MIN]
        return entries
