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


def lower_cropping(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """STRIDED_SLICE of what is left."""
    source = integer_operand(operands[0], layer.name)
    crops = tuple(tuple(pair) for pair in layer.cropping)
    return context.same_grid(ops.Crop((source,), context.name, crops))


def lower_permute(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """TRANSPOSE."""
    source = integer_operand(operands[0], layer.name)
    return context.same_grid(ops.Transpose((source,), context.name, tuple(layer.dims)))


def lower_upsampling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESIZE_NEAREST_NEIGHBOR, which repeats pixels."""
    source = integer_operand(operands[0], layer.name)
    return context.same_grid(ops.RepeatPixels((source,), context.name, tuple(layer.size)))


def lower_zero_padding(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """PAD with the zero point."""
    source = integer_operand(operands[0], layer.name)
    pads = tuple(tuple(pair) for pair in layer.padding)
    return context.same_grid(ops.Pad((source,), context.name, pads))
