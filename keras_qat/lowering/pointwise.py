"""Lowers functions of one number to a table of the values that Keras computes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import ops as keras_ops

from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import Pending

_EVERY_CODE = np.arange(INT8_MIN, INT8_MAX + 1)


@dataclasses.dataclass(frozen=True, eq=False)
class PendingLookup(Pending):
    """A lookup whose table is computed once the output grid is known.

    Attributes:
        layer: the layer of the quantized model that computes the function.
    """

    layer: Any = dataclasses.field(kw_only=True)

    def emit(self, builder: GraphBuilder, name: str, qparams: QuantParams) -> str:
        """Appends the op. It needs no clamp, because the table is already clamped."""
        placed = qparams.placed_in_int8()
        return builder.add(self.finalize(builder, name, placed), placed)

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        """LOOKUP. Codes outside the grid of the source have the entry of the nearest end."""
        source = builder.tensor(self.sources[0]).qparams
        values = source.dequantize(np.clip(_EVERY_CODE, source.qmin, source.qmax))
        outputs = self.layer.call(keras_ops.convert_to_tensor(values), training=False)
        codes = output.quantize(keras_ops.convert_to_numpy(outputs).reshape(-1))
        return ops.Lookup(self.sources, name, codes.astype(np.int8))


def lower_pointwise(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """LOOKUP of the layer's values at the codes of its input."""
    return PendingLookup((integer_operand(operands[0], layer.name),), layer=layer)
