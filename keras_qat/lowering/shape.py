"""Lowers layers that move, repeat or interpolate values."""

from __future__ import annotations

import math
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
    """TRANSPOSE on the grid of its input.

    Where runtimes have no tensors of that rank, axes that stay together are one axis meanwhile.
    """
    source = integer_operand(operands[0], layer.name)
    shape, order = context.builder.tensor(source).shape[1:], tuple(layer.dims)
    if len(order) <= _MOST_AXES:
        return context.same_grid(ops.Transpose((source,), context.name, order))
    groups = _together(order)
    sizes = [math.prod(shape[axis - 1] for axis in group) for group in sorted(groups)]
    places = tuple(sorted(groups).index(group) + 1 for group in groups)
    merged = ops.Reshape((source,), f"{context.name}/merged", tuple(sizes))
    moved = ops.Transpose((context.same_grid(merged),), f"{context.name}/moved", places)
    return context.same_grid(
        ops.Reshape((context.same_grid(moved),), context.name, context.output_shape)
    )


_MOST_AXES = 4


def _together(order: tuple[int, ...]) -> list[list[int]]:
    """Axes that follow each other before and after a permutation, in groups.

    >>> _together((1, 3, 2, 4, 5))
    [[1], [3], [2], [4, 5]]
    """
    groups: list[list[int]] = []
    for axis in order:
        if groups and groups[-1][-1] == axis - 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def lower_upsampling(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESIZE_NEAREST_NEIGHBOR, which repeats pixels."""
    size = layer.size if isinstance(layer.size, tuple) else (layer.size,)
    return _on_image(ops.RepeatPixels, over_image(size), layer, operands, context)


def lower_interpolation(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESIZE_BILINEAR, which rounds to the grid of its input."""
    return _on_image(ops.InterpolatePixels, over_image(layer.size), layer, operands, context)


def lower_take(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """GATHER of constant places on the grid of its input."""
    source = integer_operand(operands[0], layer.name)
    axis = layer.axis % (len(context.output_shape) + 1)
    return context.same_grid(ops.Gather((source,), context.name, layer.indices, axis))


def lower_repeat_vector(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """RESHAPE to a sequence of one step, and GATHER of that step `n` times."""
    source = integer_operand(operands[0], layer.name)
    step = ops.Reshape((source,), f"{context.name}/step", (1, context.output_shape[-1]))
    places = (0,) * layer.n
    return context.same_grid(ops.Gather((context.same_grid(step),), context.name, places, 1))


def lower_center_crop(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """STRIDED_SLICE of the middle of an image; no op if that is the whole image."""
    source = integer_operand(operands[0], layer.name)
    sizes = context.builder.tensor(source).shape[1:3]
    spare = [size - kept for size, kept in zip(sizes, context.output_shape[:2], strict=True)]
    if not any(spare):
        return source
    down, across = ((each // 2, each - each // 2) for each in spare)
    return context.same_grid(ops.Crop((source,), context.name, (down, across)))


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
