"""Emitters of the ops that move integers and change none, and of those that resize images."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.emission import Emission, file_operator, int32_constant


def emit_pad(op: ops.Pad, graph: IntegerGraph) -> Emission:
    pads = int32_constant(f"{op.output}/pads", [(0, 0), *op.pads, (0, 0)])
    operands = (*op.inputs, pads.name)
    return Emission((pads,), file_operator("PAD", 2, operands, op.output, "PadOptions"))


def emit_crop(op: ops.Crop, graph: IntegerGraph) -> Emission:
    """The batch and the channels are taken whole, whatever they are."""
    _, rows, columns, _ = graph.tensors[op.output].shape
    (top, _), (left, _) = op.crops
    name, everything = op.output, 0b1001
    begin = int32_constant(f"{name}/begin", [0, top, left, 0])
    end = int32_constant(f"{name}/end", [0, top + rows, left + columns, 0])
    strides = int32_constant(f"{name}/strides", [1, 1, 1, 1])
    constants = (begin, end, strides)
    operands = (*op.inputs, *(constant.name for constant in constants))
    fields = {"beginMask": everything, "endMask": everything}
    operator = file_operator("STRIDED_SLICE", 2, operands, name, "StridedSliceOptions", fields)
    return Emission(constants, operator)


def emit_transpose(op: ops.Transpose, graph: IntegerGraph) -> Emission:
    order = int32_constant(f"{op.output}/order", op.permutation)
    operands = (*op.inputs, order.name)
    return Emission(
        (order,), file_operator("TRANSPOSE", 2, operands, op.output, "TransposeOptions")
    )


def emit_repeat_pixels(op: ops.RepeatPixels, graph: IntegerGraph) -> Emission:
    return _resize("RESIZE_NEAREST_NEIGHBOR", 2, "ResizeNearestNeighborOptions", False, op, graph)


def emit_interpolate_pixels(op: ops.InterpolatePixels, graph: IntegerGraph) -> Emission:
    return _resize("RESIZE_BILINEAR", 3, "ResizeBilinearOptions", True, op, graph)


def _resize(
    code: str,
    version: int,
    options: str,
    half_pixel_centers: bool,
    op: ops.IntegerOp,
    graph: IntegerGraph,
) -> Emission:
    size = int32_constant(f"{op.output}/size", graph.tensors[op.output].shape[1:3])
    fields = {"alignCorners": False, "halfPixelCenters": half_pixel_centers}
    operands = (*op.inputs, size.name)
    return Emission((size,), file_operator(code, version, operands, op.output, options, fields))


def emit_reshape(op: ops.Reshape, graph: IntegerGraph) -> Emission:
    """The batch is left open (-1), so that a caller may resize it."""
    target = (-1, *op.target_shape)
    shape = int32_constant(f"{op.output}/shape", target)
    fields = {"newShape": list(target)}
    operands = (*op.inputs, shape.name)
    return Emission(
        (shape,), file_operator("RESHAPE", 1, operands, op.output, "ReshapeOptions", fields)
    )
