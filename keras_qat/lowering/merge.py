"""Add in integers."""

from __future__ import annotations

from typing import Any

from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import PendingAdd


def lower_add(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """ADD of two tensors, each on its own grid."""
    left, right = (integer_operand(value, layer.name) for value in operands)
    return PendingAdd((left, right))
