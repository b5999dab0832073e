"""Layers that move values and compute nothing, in integers."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand


def lower_identity(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """A layer that does nothing in inference leaves no op behind."""
    return operands[0]


def lower_reshape(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESHAPE to the layer's output shape."""
    source = integer_operand(operands[0], layer.name)
    return context.same_grid(ops.Reshape((source,), context.name, context.output_shape))


def lower_zero_padding(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """PAD with the zero point."""
    source = integer_operand(operands[0], layer.name)
    pads = tuple(tuple(pair) for pair in layer.padding)
    return context.same_grid(ops.Pad((source,), context.name, pads))
