"""Lowers layers that move, repeat or interpolate values."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import ops
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.image import as_image, over_image


def lower_identity(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """No op: the layer does nothing in inference."""
    return operands[0]


def lower_reshape(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESHAPE to the layer's output shape."""
    source = integer_operand(operands[0], layer.name)
    return context.same_grid(ops.Reshape((source,), context.name, context.output_shape))


def lower_cropping(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """STRIDED_SLICE of the rows and columns that are left."""
    crops = _around_image(layer.cropping)
    return _on_image(ops.Crop, crops, layer, operands, context)


def lower_permute(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """TRANSPOSE on the grid of its input."""
    source = integer_operand(operands[0], layer.name)
    return context.same_grid(ops.Transpose((source,), context.name, tuple(layer.dims)))


def lower_upsampling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESIZE_NEAREST_NEIGHBOR, which repeats pixels."""
    size = layer.size if isinstance(layer.size, tuple) else (layer.size,)
    return _on_image(ops.RepeatPixels, over_image(size), layer, operands, context)


def lower_interpolation(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESIZE_BILINEAR, which rounds to the grid of its input."""
    return _on_image(ops.InterpolatePixels, over_image(layer.size), layer, operands, context)


def lower_zero_padding(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """PAD with the zero point."""
    return _on_image(ops.Pad, _around_image(layer.padding), layer, operands, context)


def _on_image(
    op: type[ops.Crop] | type[ops.UpsamplingOp] | type[ops.Pad],
    option: Any,
    layer: Any,
    operands: list[Value],
    context: LoweringContext,
) -> str:
    source = integer_operand(operands[0], layer.name)
    image = as_image(context.builder, source, context.name)
    return context.in_own_shape(lambda name: op((image,), name, option))


def _around_image(amounts: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Amounts at both ends of one or two axes, for height and width of an image."""
    pairs = [tuple(pair) for pair in amounts] if isinstance(amounts[0], tuple) else [amounts]
    down, across = [(0, 0), *pairs][-2:]
    return tuple(down), tuple(across)
