"""Add and Concatenate in integers."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import PendingAdd


def lower_add(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """ADD of two tensors, each on its own grid."""
    left, right = (integer_operand(value, layer.name) for value in operands)
    return PendingAdd((left, right))


def lower_concatenate(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """CONCATENATION of tensors that are on one grid."""
    sources = tuple(integer_operand(value, layer.name) for value in operands)
    if len(sources) == 1:
        return sources[0]
    grids = [context.qparams(source) for source in sources]
    grid = dataclasses.replace(
        grids[0], qmin=min(grid.qmin for grid in grids), qmax=max(grid.qmax for grid in grids)
    )
    axis = layer.axis % (len(context.output_shape) + 1)
    return context.builder.add(ops.Concatenate(sources, context.name, axis), grid)
