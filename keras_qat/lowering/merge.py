"""Lowers Add, Subtract, Multiply, and the layers that join tensors on one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import PendingBinary


def lower_add(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """ADD of two tensors, each on its own grid."""
    return _pending(ops.Add, layer, operands)


def lower_subtract(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """SUB of two tensors, each on its own grid."""
    return _pending(ops.Sub, layer, operands)


def lower_multiply(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MUL of two tensors, each on its own grid."""
    return _pending(ops.Mul, layer, operands)


def _pending(op: type[ops.ArithmeticOp], layer: Any, operands: list[Value]) -> PendingBinary:
    left, right = (integer_operand(value, layer.name) for value in operands)
    return PendingBinary((left, right), op=op)


def lower_concatenate(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """CONCATENATION of tensors on one grid."""
    sources = tuple(integer_operand(value, layer.name) for value in operands)
    if len(sources) == 1:
        return sources[0]
    grids = [context.qparams(source) for source in sources]
    grid = dataclasses.replace(
        grids[0], qmin=min(grid.qmin for grid in grids), qmax=max(grid.qmax for grid in grids)
    )
    axis = layer.axis % (len(context.output_shape) + 1)
    return context.builder.add(ops.Concatenate(sources, context.name, axis), grid)


def lower_maximum(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MAXIMUM of two tensors on one grid."""
    return _compared(ops.MaximumOfTwo, max, layer, operands, context)


def lower_minimum(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MINIMUM of two tensors on one grid."""
    return _compared(ops.MinimumOfTwo, min, layer, operands, context)


def _compared(
    op: type[ops.MaximumOfTwo] | type[ops.MinimumOfTwo],
    keep: Callable[[int, int], int],
    layer: Any,
    operands: list[Value],
    context: LoweringContext,
) -> Value:
    left, right = (integer_operand(value, layer.name) for value in operands)
    a, b = context.qparams(left), context.qparams(right)
    grid = dataclasses.replace(a, qmin=keep(a.qmin, b.qmin), qmax=keep(a.qmax, b.qmax))
    return context.builder.add(op((left, right), context.name), grid)
