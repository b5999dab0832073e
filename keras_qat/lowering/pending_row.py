"""A weight layer over a sequence: a pending op over an image of one row."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from keras_qat.errors import LoweringError
from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.lowering.image import as_image, flat_name
from keras_qat.lowering.pending import Pending, PendingLinear


@dataclasses.dataclass(frozen=True, eq=False)
class PendingRow(Pending):
    """A linear op that reads its source as an image of one row, and yields a sequence.

    Attributes:
        inner: the op over images.
        zeros_before: number of zeros padded before the sequence.
    """

    inner: PendingLinear = dataclasses.field(kw_only=True)
    zeros_before: int = dataclasses.field(kw_only=True, default=0)

    def activated(self, activation: ops.Activation) -> Pending:
        return dataclasses.replace(
            self, inner=dataclasses.replace(self.inner, activation=activation)
        )

    def affine(self, gain: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]) -> PendingRow:
        """`gain * y + offset` per channel."""
        return dataclasses.replace(self, inner=self.inner.affine(gain, offset))

    def emit(self, builder: GraphBuilder, name: str, qparams: QuantParams) -> str:
        image = as_image(builder, self.sources[0], name)
        if self.zeros_before:
            pad = ops.Pad((image,), f"{name}/padded", ((0, 0), (self.zeros_before, 0)))
            image = builder.add(pad, builder.tensor(image).qparams)
        inner = dataclasses.replace(self.inner, sources=(image,))
        row = builder.tensor(inner.emit(builder, flat_name(name), qparams))
        return builder.add(ops.Reshape((row.name,), name, row.shape[2:]), row.qparams)

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        raise LoweringError(f"Tensor {name!r} is reshaped before it is quantized.")
