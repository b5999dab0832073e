"""RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import ExportError
from tflite_export.ops.emission import Emission, file_operator, int32_constant
from tflite_export.ops.grids import check_same_grid
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.targets import Target

_LARGEST_FACTOR = 64
"""Largest factor of an interpolation. Weights have 10 bits; a factor of `2**n` needs `n + 1`."""


def _emit_repeat_pixels(op: ops.RepeatPixels, graph: IntegerGraph) -> Emission:
    return _emit("RESIZE_NEAREST_NEIGHBOR", 2, "ResizeNearestNeighborOptions", False, op, graph)


def _emit_interpolate_pixels(op: ops.InterpolatePixels, graph: IntegerGraph) -> Emission:
    return _emit("RESIZE_BILINEAR", 3, "ResizeBilinearOptions", True, op, graph)


def _emit(
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


def _check_interpolate(op: ops.InterpolatePixels, graph: IntegerGraph, target: Target) -> None:
    if any(factor.bit_count() != 1 or factor > _LARGEST_FACTOR for factor in op.factors):
        raise ExportError(
            f"InterpolatePixels {op.output!r} needs factors of 1, 2, 4 up to {_LARGEST_FACTOR}: "
            f"the fixed-point weights of other factors are not exact. Received: {op.factors}"
        )
    check_same_grid(op, graph, target)


RESIZE_NEAREST_NEIGHBOR_OPERATOR = OperatorType(
    "RESIZE_NEAREST_NEIGHBOR",
    MicroKernel(
        resolver="AddResizeNearestNeighbor",
        structure_bytes=0,
        channel_bytes=0,
        scratch=no_scratch,
    ),
)
RESIZE_BILINEAR_OPERATOR = OperatorType(
    "RESIZE_BILINEAR",
    MicroKernel(
        resolver="AddResizeBilinear", structure_bytes=0, channel_bytes=0, scratch=no_scratch
    ),
)

REPEAT_PIXELS = OpExport(
    emit=_emit_repeat_pixels,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(RESIZE_NEAREST_NEIGHBOR_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
INTERPOLATE_PIXELS = OpExport(
    emit=_emit_interpolate_pixels,
    check=_check_interpolate,
    check_constants=no_constants,
    operators=(RESIZE_BILINEAR_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
