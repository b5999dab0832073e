"""Pooling in integers."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import Pending, PendingMean, PendingReshape


def lower_max_pooling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MAX_POOL_2D on the input's grid."""
    return context.same_grid(_windowed(ops.MaxPool2D, layer, operands, context))


def lower_global_max(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MAX_POOL_2D over everything; dimensions that are not kept are a RESHAPE behind it."""
    source = integer_operand(operands[0], layer.name)
    window = context.builder.tensor(source).shape[1:3]
    kept = len(context.output_shape) > 1
    name = context.name if kept else f"{context.name}/kept"
    pooled = context.same_grid(ops.MaxPool2D((source,), name, window, window))
    if kept:
        return pooled
    return context.same_grid(ops.Reshape((pooled,), context.name, context.output_shape))


def lower_average_pooling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """AVERAGE_POOL_2D on the input's grid."""
    return context.same_grid(_windowed(ops.AveragePool2D, layer, operands, context))


def lower_global_average(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MEAN over height and width on a grid of its own; kept dimensions are a RESHAPE behind it."""
    mean: Pending = PendingMean((integer_operand(operands[0], layer.name),))
    if len(context.output_shape) > 1:
        mean = PendingReshape(mean.sources, inner=mean, target_shape=context.output_shape)
    return mean


def _windowed(
    op: type[ops.MaxPool2D] | type[ops.AveragePool2D],
    layer: Any,
    operands: list[Value],
    context: LoweringContext,
) -> ops.IntegerOp:
    source = integer_operand(operands[0], layer.name)
    return op(
        (source,),
        context.name,
        pool_size=tuple(layer.pool_size),
        strides=tuple(layer.strides),
        padding=layer.padding,
    )
