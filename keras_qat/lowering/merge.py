"""Add, Subtract and Multiply in integers."""

from __future__ import annotations

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


def _pending(op: type[ops.BinaryOp], layer: Any, operands: list[Value]) -> PendingBinary:
    left, right = (integer_operand(value, layer.name) for value in operands)
    return PendingBinary((left, right), op=op)
