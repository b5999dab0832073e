"""RESHAPE, PAD, STRIDED_SLICE and TRANSPOSE: operators that move codes and change none."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import ExportError
from tflite_export.ops.emission import Emission, file_operator, int32_constant
from tflite_export.ops.grids import check_same_grid, require_range, require_same_scale
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.targets import Target


def _emit_pad(op: ops.Pad, graph: IntegerGraph) -> Emission:
    pads = int32_constant(f"{op.output}/pads", [(0, 0), *op.pads, (0, 0)])
    operands = (*op.inputs, pads.name)
    return Emission((pads,), file_operator("PAD", 2, operands, op.output, "PadOptions"))


def _emit_crop(op: ops.Crop, graph: IntegerGraph) -> Emission:
    """Crops rows and columns. The masks take the batch and the channels whole."""
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


def _emit_transpose(op: ops.Transpose, graph: IntegerGraph) -> Emission:
    order = int32_constant(f"{op.output}/order", op.permutation)
    operands = (*op.inputs, order.name)
    return Emission(
        (order,), file_operator("TRANSPOSE", 2, operands, op.output, "TransposeOptions")
    )


def _emit_reshape(op: ops.Reshape, graph: IntegerGraph) -> Emission:
    """Leaves the batch open (-1), so that a caller may resize it."""
    target = (-1, *op.target_shape)
    shape = int32_constant(f"{op.output}/shape", target)
    fields = {"newShape": list(target)}
    operands = (*op.inputs, shape.name)
    return Emission(
        (shape,), file_operator("RESHAPE", 1, operands, op.output, "ReshapeOptions", fields)
    )


def _check_pad(op: ops.Pad, graph: IntegerGraph, target: Target) -> None:
    x = require_same_scale(op, graph)
    low, high = min(x.qmin, x.zero_point), max(x.qmax, x.zero_point)
    require_range(op, graph, (low, high))


def _check_transpose(op: ops.Transpose, graph: IntegerGraph, target: Target) -> None:
    check_same_grid(op, graph, target)
    rank, most = len(op.permutation), _MOST_AXES[target.family]
    if rank > most:
        raise ExportError(
            f"Op {op.output!r} orders {rank} axes anew, the batch included, and TRANSPOSE of "
            f"target {target.name!r} orders at most {most}. Use several Permute layers, each of "
            "which exchanges two blocks of neighboring axes."
        )


_MOST_AXES = {"litert": 6, "tflm": 5}

RESHAPE_OPERATOR = OperatorType(
    "RESHAPE",
    MicroKernel(resolver="AddReshape", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
PAD_OPERATOR = OperatorType(
    "PAD",
    MicroKernel(resolver="AddPad", structure_bytes=56, channel_bytes=0, scratch=no_scratch),
)
STRIDED_SLICE_OPERATOR = OperatorType(
    "STRIDED_SLICE",
    MicroKernel(
        resolver="AddStridedSlice", structure_bytes=100, channel_bytes=0, scratch=no_scratch
    ),
)
TRANSPOSE_OPERATOR = OperatorType(
    "TRANSPOSE",
    MicroKernel(resolver="AddTranspose", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)

RESHAPE = OpExport(
    emit=_emit_reshape,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(RESHAPE_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
PAD = OpExport(
    emit=_emit_pad,
    check=_check_pad,
    check_constants=no_constants,
    operators=(PAD_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
CROP = OpExport(
    emit=_emit_crop,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(STRIDED_SLICE_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
TRANSPOSE = OpExport(
    emit=_emit_transpose,
    check=_check_transpose,
    check_constants=no_constants,
    operators=(TRANSPOSE_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
