"""Lowers PReLU with several slopes."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.lowering.pending import Pending


@dataclasses.dataclass(frozen=True, eq=False)
class PendingPReLU(Pending):
    """A PReLU whose output has no grid yet.

    Attributes:
        codes: codes of the slopes, int8, in a shape that broadcasts to an example.
        scale: real value of one code, a float32 scalar.
    """

    codes: npt.NDArray[np.int8] = dataclasses.field(kw_only=True)
    scale: npt.NDArray[np.float32] = dataclasses.field(kw_only=True)

    def clamped_at_zero(self, builder: GraphBuilder) -> Pending | None:
        return None

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        slopes = ops.QuantizedArray(self.codes, QuantParams(self.scale, qmin=-127, qmax=127))
        return ops.PReLU(self.sources, name, slopes)
