"""Lowers pooling over images and sequences."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.image import as_image, over_image
from keras_qat.lowering.pending import Pending, PendingMean, PendingReshape


def lower_max_pooling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MAX_POOL_2D on the grid of its input."""
    return _windowed(ops.MaxPool2D, layer, operands, context)


def lower_global_max(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MAX_POOL_2D over the whole image, and a RESHAPE if the layer's output has another shape."""
    image = _image(layer, operands, context)
    _, height, width, _ = context.builder.tensor(image).shape
    window = (height, width)
    return context.in_own_shape(lambda name: ops.MaxPool2D((image,), name, window, window))


def lower_average_pooling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """AVERAGE_POOL_2D on the grid of its input."""
    return _windowed(ops.AveragePool2D, layer, operands, context)


def lower_global_average(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """MEAN over height and width on its own grid, and a RESHAPE if the layer keeps dimensions."""
    mean: Pending = PendingMean((_image(layer, operands, context),))
    if len(context.output_shape) > 1:
        mean = PendingReshape(mean.sources, inner=mean, target_shape=context.output_shape)
    return mean


def _windowed(
    op: type[ops.MaxPool2D] | type[ops.AveragePool2D],
    layer: Any,
    operands: list[Value],
    context: LoweringContext,
) -> str:
    image = _image(layer, operands, context)
    options = {"pool_size": over_image(layer.pool_size), "strides": over_image(layer.strides)}
    return context.in_own_shape(lambda name: op((image,), name, **options, padding=layer.padding))


def _image(layer: Any, operands: list[Value], context: LoweringContext) -> str:
    return as_image(context.builder, integer_operand(operands[0], layer.name), context.name)
